"""Say a tokenizer's digit splitting in the words that ONNX Runtime GenAI's tokenizer understands."""

import json
from pathlib import Path
from typing import Any

from targets.errors import StageFailed

TOKENIZER = "tokenizer.json"

# The expression inside the ByteLevel pre-tokenizer (tokenizers, pre_tokenizers/byte_level.rs), which is GPT-2's.
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DIGIT_PATTERN = r"\p{N}"

# Where the two spellings could part: white space before digits, digits in and between words, numerals of other scripts.
PROBES = (
    "",
    "\n\n1",
    "a  1 22  333",
    " \t\n 5x7\u00a09",
    "v2.0-rc1 it's 9 o'clock",
    "\u00bd \u00b2\u2460  \u0661\u0662",
    "tab\tword  gap\n\n  end  ",
    "\u65e5\u672c3\u8a9e e\u0301 \U0001f600 4",
)


def write_split_tokenizer(folder: Path) -> bool:
    """Rewrite `tokenizer.json` of a package for ONNX Runtime GenAI; False when it needs no change.

    Its tokenizer skips the pre-tokenizer `Digits`, so that white space before a digit comes out as other tokens; it
    does run a sequence of `Split`. `Digits` with single digits is a split at every numeral, and `ByteLevel` a split by
    GPT-2's expression followed by the mapping of bytes alone, so that both spellings mean the same.

    Raises:
        StageFailed: the rewritten tokenizer gives other ids than the model's.
    """
    from tokenizers import Tokenizer

    path = folder / TOKENIZER
    stored = json.loads(path.read_text(encoding="utf-8"))
    steps = split_steps(stored.get("pre_tokenizer"))
    if steps is None:
        return False
    before = Tokenizer.from_file(str(path))
    stored["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    text = json.dumps(stored, ensure_ascii=False, separators=(",", ":"))
    after = Tokenizer.from_str(text)
    for probe in PROBES:
        if before.encode(probe, add_special_tokens=False).ids != after.encode(probe, add_special_tokens=False).ids:
            raise StageFailed(
                f"the tokenizer as ONNX Runtime GenAI needs it reads {probe!r} otherwise than the model's",
                "report this model; build for OpenVINO only",
            )
    path.write_text(text, encoding="utf-8")
    return True


def split_steps(pre_tokenizer: dict[str, Any] | None) -> list[dict[str, Any]] | None:
    """The steps that stand for a sequence of `Digits` and `ByteLevel`; None for any other pre-tokenizer."""
    if pre_tokenizer is None or pre_tokenizer.get("type") != "Sequence":
        return None
    parts = pre_tokenizer["pretokenizers"]
    if [part["type"] for part in parts] != ["Digits", "ByteLevel"]:
        return None
    digits, byte_level = parts
    if not digits["individual_digits"] or byte_level["add_prefix_space"] or not byte_level.get("use_regex", True):
        return None
    return [split_at(DIGIT_PATTERN), split_at(GPT2_PATTERN), {**byte_level, "use_regex": False}]


def split_at(pattern: str) -> dict[str, Any]:
    """A `Split` that keeps every match as a piece of its own."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
