"""Greedy generation as users see it: where the package leaves the float model, whether it repeats itself or ends."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Protocol

from export.hub import OnnxModel, open_hub
from export.parity import HubSession
from validate.chat import render_prompt
from validate.golden import end_tokens
from validate.golden_text import prompts
from validate.parity_corpus import read_lines
from validate.runtime import Generation

STABILITY = "stability.json"
PROMPTS = "stability.jsonl"
REPEATED = 4  # tokens in a row that count as a repetition when they occur again in the same answer

Progress = Callable[[int, int], None]


class Generating(Protocol):
    """What stability asks of a runtime's generation pipeline."""

    def generate(self, prompt: Sequence[int], new_tokens: int, stop: bool) -> Generation:
        """Greedy tokens after `prompt`, ended earlier by an end token when `stop`."""
        ...


@dataclass(frozen=True)
class Stability:
    """Greedy answers of a package beside the float model's.

    Attributes:
        prompts: how many were answered.
        limit: longest answer in tokens.
        divergence: median position of the first token that differs, answers that never part counted at their length.
        identical: share of answers that are the same to the end.
        repetition: share of 4-grams that occurred before in the same answer, the package's.
        reference_repetition: the same of the float model.
        end_rate: share of answers that ended by themselves before the limit, the package's.
        reference_end_rate: the same of the float model.
        length_ratio: tokens of all answers over those of the float model's.
        first_divergence: that position of each answer, None where it is the same to the end.
    """

    prompts: int
    limit: int
    divergence: float
    identical: float
    repetition: float
    reference_repetition: float
    end_rate: float
    reference_end_rate: float
    length_ratio: float
    first_divergence: tuple[int | None, ...]


def stability_prompts() -> list[str]:
    """The requests: those of the golden answers, then those made for this."""
    return [*prompts(), *(row["user"] for row in read_lines(PROMPTS))]


def golden_stability(hub: OnnxModel, count: int | None, limit: int, out: Path, progress: Progress) -> Path:
    """Let the float hub answer the first `count` prompts (None: all) and write `stability.json` to `out`."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(hub.folder / "tokenizer.json"))
    session = open_hub(hub)
    asked = stability_prompts()[:count]
    rows = []
    for index, user in enumerate(asked):
        ids = tokenizer.encode(render_prompt(hub.folder, user), add_special_tokens=False).ids
        room = min(limit, hub.facts.max_positions - len(ids))
        rows.append({"prompt": ids, "answer": continue_greedily(session, ids, end_tokens(hub.folder), room)})
        progress(index + 1, len(asked))
    path = out / STABILITY
    path.write_text(json.dumps({"limit": limit, "answers": rows}) + "\n", encoding="utf-8")
    return path


def continue_greedily(session: HubSession, prompt: Sequence[int], ends: frozenset[int], limit: int) -> list[int]:
    """At most `limit` most likely tokens after `prompt`, without the one that ends the answer."""
    import numpy as np

    session.reset()
    answer: list[int] = []
    step = np.array([prompt], dtype=np.int64)
    while len(answer) < limit:
        token = int(session.step(step)[0, -1].argmax())
        if token in ends:
            break
        answer.append(token)
        step = np.array([[token]], dtype=np.int64)
    return answer


def measure_stability(pipeline: Generating, golden: Path, count: int | None, progress: Progress) -> Stability:
    """Let a package answer the first `count` prompts of `stability.json` (None: all) and compare."""
    stored = json.loads(golden.read_text(encoding="utf-8"))
    rows = stored["answers"][:count]
    answers = []
    for index, row in enumerate(rows):
        answers.append(list(pipeline.generate(row["prompt"], stored["limit"], stop=True).tokens))
        progress(index + 1, len(rows))
    return compare_answers([row["answer"] for row in rows], answers, stored["limit"])


def compare_answers(references: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], limit: int) -> Stability:
    """Hold answers, as token ids, against the float model's to the same prompts."""
    pairs = list(zip(answers, references, strict=True))
    first = [first_difference(answer, reference) for answer, reference in pairs]
    reached = [len(reference) if at is None else at for at, reference in zip(first, references, strict=True)]
    written = sum(map(len, references))
    return Stability(
        prompts=len(answers),
        limit=limit,
        divergence=float(median(reached)),
        identical=first.count(None) / len(first),
        repetition=repetition_rate(answers),
        reference_repetition=repetition_rate(references),
        end_rate=sum(len(answer) < limit for answer in answers) / len(answers),
        reference_end_rate=sum(len(answer) < limit for answer in references) / len(references),
        length_ratio=sum(map(len, answers)) / written if written else 1.0,
        first_divergence=tuple(first),
    )


def first_difference(answer: Sequence[int], reference: Sequence[int]) -> int | None:
    """Where two answers part, an earlier end included; None when they are the same."""
    for index, (ours, theirs) in enumerate(zip(answer, reference, strict=False)):
        if ours != theirs:
            return index
    return None if len(answer) == len(reference) else min(len(answer), len(reference))


def repetition_rate(answers: Sequence[Sequence[int]]) -> float:
    """Share of `REPEATED`-grams of all answers that occurred before in the same answer."""
    total = repeated = 0
    for answer in answers:
        grams = [tuple(answer[start : start + REPEATED]) for start in range(len(answer) - REPEATED + 1)]
        total += len(grams)
        repeated += len(grams) - len(set(grams))
    return repeated / total if total else 0.0
