"""What a pipeline says and how it reads: greedy answers beside the float model's, and its tokenizer's ids."""

from collections.abc import Sequence
from pathlib import Path

from compile.package import Package
from validate.golden import Golden, GoldenAnswer, texts
from validate.measurement import Answer, Measurement
from validate.runtime import Pipeline

CONTEXT = 12  # characters shown on each side of a tokenizer mismatch


def measure_answers(pipeline: Pipeline, package: Package, golden: Golden) -> Measurement:
    """What a pipeline says, and how its tokenizer reads; every other figure is left unmeasured."""
    answers = compare_answers(pipeline, golden.answers(), package, golden.plan.answer_tokens)
    mismatches = tokenizer_mismatches(pipeline, package.folder, [answer.user for answer in golden.answers()])
    request = golden.answers()[0].user
    return Measurement(
        answers=answers,
        tokenizer_agrees=not mismatches,
        tokenizer_mismatches=mismatches,
        chat=(request, pipeline.chat(request, golden.plan.answer_tokens)),
    )


def compare_answers(
    pipeline: Pipeline, references: Sequence[GoldenAnswer], package: Package, limit: int
) -> tuple[Answer, ...]:
    """Answer every golden prompt greedily and find where it leaves the float model's answer."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(package.folder / "tokenizer.json"))
    answers = []
    for reference in references:
        tokens = pipeline.generate(reference.prompt_ids, limit, stop=True).tokens
        pairs = enumerate(zip(tokens, reference.answer_ids, strict=False))
        agreed = next((i for i, (ours, theirs) in pairs if ours != theirs), min(len(tokens), len(reference.answer_ids)))
        answers.append(
            Answer(
                prompt=reference.user,
                reference=reference.answer,
                text=tokenizer.decode(list(tokens)),
                agreed_tokens=agreed,
                reference_tokens=len(reference.answer_ids),
                tokens=len(tokens),
            )
        )
    return tuple(answers)


def tokenizer_mismatches(pipeline: Pipeline, folder: Path, requests: Sequence[str]) -> tuple[str, ...]:
    """Requests and golden texts that the runtime's own tokenizer reads otherwise, each around the difference."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    found = []
    for text in [*requests, *texts()]:
        ours, model = pipeline.encode(text), tokenizer.encode(text, add_special_tokens=False)
        if ours != model.ids:
            parting = next((i for i, pair in enumerate(zip(ours, model.ids, strict=False)) if pair[0] != pair[1]), 0)
            start = model.offsets[parting][0]
            found.append(text[max(0, start - CONTEXT) : start + CONTEXT])
    return tuple(found)
