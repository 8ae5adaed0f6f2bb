"""Multiple choice on the user's own questions, by log-likelihood through the runtime that ships."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.hub import OnnxModel, open_hub
from targets.errors import InputRefused
from validate.paired import Paired, compare_paired
from validate.vehicle_ranking import NEVER, score_options
from validate.vehicle_session import Branches, HubStepping, Stepping, common_beginning

CHOICES = "choices.json"
MAX_ITEMS = 100_000
MAX_BYTES = 64 << 20

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Item:
    """A question with its possible continuations; `answer` is the index of the right one."""

    question: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Choices:
    """Right answers of a package beside the float model's.

    Attributes:
        items: questions asked.
        agreement: share of questions where both choose the same, by log-likelihood per byte.
        paired: right choices by log-likelihood per byte.
        paired_sum: right choices by log-likelihood alone.
    """

    items: int
    agreement: float
    paired: Paired
    paired_sum: Paired


def read_items(path: Path) -> list[Item]:
    """Questions of a JSONL file: {"question": text, "choices": [texts], "answer": index or the text of the right one}.

    Raises:
        InputRefused: too large, not JSONL, or a line that is no question.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        lines = [line for line in data.decode("utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputRefused(f"{path} cannot be read: {reason}", "give a JSONL file in UTF-8") from error
    if len(data) > MAX_BYTES:
        raise InputRefused(f"{path.name} has more than {MAX_BYTES} bytes", "give fewer questions")
    if not 0 < len(lines) <= MAX_ITEMS:
        raise InputRefused(f"{path.name} has {len(lines)} questions", f"give 1 to {MAX_ITEMS}, one JSON object a line")
    return [read_item(line, f"{path.name} line {number}") for number, line in enumerate(lines, 1)]


def read_item(line: str, where: str) -> Item:
    """One line of the file.

    Raises:
        InputRefused: it is no question.
    """
    form = 'write {"question": "...", "choices": ["...", "..."], "answer": 0}'
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputRefused(f"{where} is no JSON: {error}", form) from error
    if not isinstance(row, dict) or not {"question", "choices", "answer"} <= row.keys():
        raise InputRefused(f"{where} lacks question, choices or answer", form)
    question, choices, answer = row["question"], row["choices"], row["answer"]
    texts = isinstance(question, str) and isinstance(choices, list) and all(isinstance(each, str) for each in choices)
    if not texts or len(set(choices)) < max(2, len(choices)) or "" in choices:
        raise InputRefused(f"{where} needs a question and two or more different choices, all texts", form)
    if isinstance(answer, str) and answer in choices:
        answer = choices.index(answer)
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise InputRefused(f"{where}: the answer {answer!r} is none of the {len(choices)} choices", form)
    return Item(question, tuple(choices), answer)


def tokenize(tokenizer: Any, item: Item) -> tuple[list[int], list[list[int]]]:
    """(prompt, continuations) as ids, each continuation as it is read behind its question.

    A choice follows its question after one space, unless either brings white space. Question and choice are encoded
    together, since a tokenizer may join them; the prompt ends where the question's own reading does or earlier.
    """
    texts = [f"{item.question}{gap(item.question, choice)}{choice}" for choice in item.choices]
    whole = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    question = tokenizer.encode(item.question, add_special_tokens=False).ids
    prompt = common_beginning([question, *(ids[:-1] for ids in whole)])
    return prompt, [ids[len(prompt) :] for ids in whole]


def gap(question: str, choice: str) -> str:
    """What separates a question from a choice."""
    return "" if question[-1:].isspace() or choice[:1].isspace() else " "


def score_items(session: Stepping, folder: Path, items: Sequence[Item], progress: Progress) -> list[list[float]]:
    """Natural log of the probability of each choice of each item.

    Raises:
        InputRefused: an item leaves no prompt: its question is empty, or joined with its choices to one token.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    branches = Branches(session, NEVER)
    scores = []
    for index, item in enumerate(items):
        prompt, texts = tokenize(tokenizer, item)
        if not prompt:
            raise InputRefused(f"question {index + 1} is too short to be scored", "give a question of one word or more")
        branches.restart()
        scores.append(score_options(branches, prompt, texts))
        progress(index + 1, len(items))
    return scores


def golden_choices(hub: OnnxModel, path: Path, out: Path, progress: Progress) -> Path:
    """Let the float hub answer the questions of `path` and write questions and scores to `choices.json` of `out`."""
    items = read_items(path)
    scores = score_items(HubStepping(open_hub(hub)), hub.folder, items, progress)
    rows = [
        {"question": item.question, "choices": item.choices, "answer": item.answer, "scores": row}
        for item, row in zip(items, scores, strict=True)
    ]
    stored = out / CHOICES
    stored.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
    return stored


def measure_choices(
    session: Stepping, golden: Path, folder: Path, count: int | None, margin: float, progress: Progress
) -> Choices:
    """Let a package answer the first `count` questions of `choices.json` (None: all) and compare with the float model.

    Args:
        session: of the package.
        golden: `choices.json`.
        folder: the package's, for its `tokenizer.json`.
        count: questions asked.
        margin: loss of accuracy the product tolerates.
        progress: called with (done, total).
    """
    rows = [json.loads(line) for line in golden.read_text(encoding="utf-8").split("\n") if line][:count]
    items = [Item(row["question"], tuple(row["choices"]), row["answer"]) for row in rows]
    scores = score_items(session, folder, items, progress)
    return compare_choices(items, [row["scores"] for row in rows], scores, margin)


def compare_choices(
    items: Sequence[Item], references: Sequence[Sequence[float]], scores: Sequence[Sequence[float]], margin: float
) -> Choices:
    """Hold a package's scores [item][choice] against the float model's."""
    per_byte = [[len(choice.encode()) for choice in item.choices] for item in items]
    plain = [[1] * len(item.choices) for item in items]
    right = [item.answer for item in items]
    chosen = {
        (name, side): [int(np.argmax(np.divide(row, size))) for row, size in zip(table, sizes, strict=True)]
        for name, sizes in (("bytes", per_byte), ("sum", plain))
        for side, table in (("reference", references), ("candidate", scores))
    }
    marks = {key: [ours == answer for ours, answer in zip(row, right, strict=True)] for key, row in chosen.items()}
    same = [one == other for one, other in zip(chosen["bytes", "candidate"], chosen["bytes", "reference"], strict=True)]
    return Choices(
        items=len(items),
        agreement=float(np.mean(same)),
        paired=compare_paired(marks["bytes", "reference"], marks["bytes", "candidate"], margin),
        paired_sum=compare_paired(marks["sum", "reference"], marks["sum", "candidate"], margin),
    )
