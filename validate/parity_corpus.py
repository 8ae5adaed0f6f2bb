"""The strings and conversations that tokenizers and templates are compared on."""

import json
import random
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

SEED = 20260101
GENERATED = 400

# A text outside what a product sends: counted apart, not gated.
EDGE = "edge"

# What generated strings are mixed from; runs of white space before digits and words are what tokenizers get wrong.
WHITE_SPACE = " \t\n\r\u000b\u000c\u00a0\u3000\u2009\u2028"
POOLS = (
    WHITE_SPACE,
    "0123456789",
    "abcXYZ",
    ("'s", "'t", "'re", "'ve", "'ll", "'d", "'S", "'"),
    '!?.,;:-()[]{}"#@/\\_',
    "\u00e9\u00fc\u00f1\u00e7\u00df\u00c4\u00d6",
    ("e\u0301", "a\u0308", "\u0327"),
    "\u05e9\u05dc\u05d5\u05dd\u0645\u0631\u062d\u0628\u0627",
    "\u65e5\u672c\u8a9e\u4e2d\u6587\u3053\u3093",
    ("\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\U0001f44d\U0001f3fd"),
    "\u00bd\u00b2\u00b3\u2460\u2167\u0661\u0662",
    "\u0e44\u0e17\u0e22\u0939\u093f\u0928\u094d\u0926\u0940",
)
COMMON_POOLS = 3  # the first pools are drawn from more often


@dataclass(frozen=True)
class Sample:
    """One string and what it is an example of."""

    category: str
    text: str


@dataclass(frozen=True)
class Conversation:
    """Messages for a chat template, with the tools offered, if any."""

    name: str
    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] | None


def read_lines(name: str) -> list[dict[str, Any]]:
    """The objects of a JSONL file of `validate/texts`."""
    text = files("validate").joinpath("texts", name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


@cache
def samples() -> tuple[Sample, ...]:
    """The fixed strings, then generated ones, then very long ones."""
    fixed = [Sample(row["category"], row["text"]) for row in read_lines("parity.jsonl")]
    return (*fixed, *generated(), *very_long())


def generated() -> list[Sample]:
    """`GENERATED` mixtures of scripts, digits and white space, the same in every run."""
    source = random.Random(SEED)  # noqa: S311 - a fixed mixture, no secret
    made = []
    for _ in range(GENERATED):
        pieces: list[str] = []
        for _ in range(source.randint(2, 12)):
            pool = source.choice(POOLS if source.random() < 0.6 else POOLS[:COMMON_POOLS])
            pieces += [source.choice(pool) for _ in range(source.randint(1, 4))]
        made.append(Sample("generated", "".join(pieces)))
    return made


def very_long() -> list[Sample]:
    """Long texts and long unbroken runs: where an algorithm's limits and its quadratic costs are."""
    passages = "\n\n".join(row["text"] for row in read_lines("golden.jsonl"))
    table = "".join(f"{row:>6}  {row * 37 % 1000:>4}\n" for row in range(1500))
    runs = ("a" * 2000, "7" * 2000, " " * 2000 + "x", "\n" * 1500 + "1", "ab " * 3000, "\u65e5\u672c" * 1500)
    return [Sample("very long", text) for text in (passages, table, *runs)]


@cache
def conversations() -> tuple[Conversation, ...]:
    """The conversations."""
    return tuple(
        Conversation(row["id"], tuple(row["messages"]), tuple(row["tools"]) if "tools" in row else None)
        for row in read_lines("conversations.jsonl")
    )
