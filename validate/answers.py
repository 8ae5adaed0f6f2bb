"""What a pipeline says and how it reads: greedy answers beside the float model's, and its tokenizer's ids."""

from collections.abc import Sequence

from compile.package import Package
from validate.golden import Golden, GoldenAnswer
from validate.measurement import Answer
from validate.package_measurement import Measurement
from validate.parity import measure_parity
from validate.runtime import Pipeline
from validate.vehicle import requests


def measure_answers(pipeline: Pipeline, package: Package, golden: Golden) -> Measurement:
    """What a pipeline says, and how its tokenizer reads; every other figure is left unmeasured."""
    request = golden.answers()[0].user
    return Measurement(
        answers=compare_answers(pipeline, golden.answers(), package, golden.plan.answer_tokens),
        parity=measure_parity(pipeline, package.folder, [each.user for each in requests()]),
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
