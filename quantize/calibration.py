"""Model -> calibration tokens: text that the float model wrote itself, or the user's."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.digest import digest_bytes
from export.model import Model
from export.strict_json import parse_object
from quantize.calibration_plan import CalibrationPlan
from targets.errors import InputRefused

TOKENS = "tokens.npy"
SELF = "self"
MAX_TEXT = 64 << 20

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Calibration:
    """Calibration tokens.

    Attributes:
        folder: `tokens.npy`, [sequences, tokens] int32.
        source: `self`, or `jsonl` for the user's text.
        digest: SHA-256 over the tokens.
        sequences: how many.
        tokens: length of each.
    """

    folder: Path
    source: str
    digest: str
    sequences: int
    tokens: int

    def load(self) -> NDArray[np.int64]:
        """[sequences, tokens]."""
        stored: NDArray[np.int32] = np.load(self.folder / TOKENS, allow_pickle=False)
        return stored.astype(np.int64)


def calibrate(model: Model, plan: CalibrationPlan, text: Path | None, out: Path, progress: Progress) -> Calibration:
    """Write calibration tokens to the empty folder `out`.

    Args:
        model: the float model.
        plan: how much.
        text: the user's JSONL, one object with a `text` a line; None samples from the model.
        out: an empty folder.
        progress: called with (tokens done, tokens in all).

    Raises:
        InputRefused: the JSONL is not one, or holds too little text.
    """
    if text is None:
        from quantize.sampling import sample_text

        tokens = sample_text(model, prompts(), plan, progress)
    else:
        tokens = cut(read_texts(text), model, plan, str(text))
    stored = tokens.astype("<i4")
    np.save(out / TOKENS, stored, allow_pickle=False)
    digest = digest_bytes(f"{stored.shape}:".encode() + stored.tobytes())
    return Calibration(out, SELF if text is None else "jsonl", digest, *map(int, stored.shape))


def prompts() -> list[dict[str, Any]]:
    """The lines of `texts/prompts.jsonl`: `kind` is `opening` or `request`, `text` what the model continues."""
    lines = files("quantize").joinpath("texts", "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [parse_object(line.encode(), "prompts.jsonl") for line in lines]


def read_texts(path: Path) -> list[str]:
    """The texts of a JSONL file, in order.

    Raises:
        InputRefused: the file cannot be read, is no UTF-8 or larger than 64 MiB, or a line is not an object with a
            string `text`; names the line.
    """
    found = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        text = parse_object(line.encode(), f"{path} line {number}").get("text")
        if not isinstance(text, str):
            raise InputRefused(f"{path} line {number} has no text", 'write one object a line: {"text": "..."}')
        found.append(text)
    return found


def read_lines(path: Path) -> list[str]:
    """The lines of a user's text file.

    Raises:
        InputRefused: it cannot be read, is no UTF-8 or larger than 64 MiB.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_TEXT + 1)
        if len(data) <= MAX_TEXT:
            return data.decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputRefused(f"{path} cannot be read: {reason}", "give a JSONL file in UTF-8") from error
    raise InputRefused(f"{path} is larger than {MAX_TEXT} bytes", "give less calibration text")


def cut(texts: list[str], model: Model, plan: CalibrationPlan, where: str) -> NDArray[np.int64]:
    """The texts one after the other as [sequences, tokens], as many as there are and at most the plan's.

    Raises:
        InputRefused: there is not one sequence.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model.folder / "tokenizer.json"))
    ids = [token for text in texts for token in tokenizer.encode(text, add_special_tokens=False).ids]
    sequences = min(len(ids) // plan.tokens, plan.sequences)
    if not sequences:
        raise InputRefused(
            f"{where} holds {len(ids)} tokens, less than one sequence of {plan.tokens}", "give more calibration text"
        )
    return np.array(ids[: sequences * plan.tokens], np.int64).reshape(sequences, plan.tokens)
