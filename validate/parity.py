"""Does a runtime's own tokenizer and template engine read what the model's read? A hard gate: no mismatch at all."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from validate.parity_corpus import EDGE, Conversation, Sample, conversations, samples
from validate.parity_template import mentions_tools, render_conversation

CONTEXT = 12  # characters shown on each side of where two readings part
EXAMPLES = 5  # mismatches kept in full

IDS, ROUND_TRIP, TEMPLATE = "ids", "round trip", "template"


class TextPipeline(Protocol):
    """What parity asks of a runtime."""

    def encode(self, text: str) -> list[int]:
        """Ids by the package's own tokenizer; nothing is added in front."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text by the package's own tokenizer, special tokens left out."""
        ...

    def apply_template(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> str:
        """The prompt of a conversation by the runtime's own template engine."""
        ...


@dataclass(frozen=True)
class Mismatch:
    """One reading that differs.

    Attributes:
        category: of the string or, for `template`, the conversation's name.
        kind: `ids`, `round trip` or `template`.
        ours: what the runtime reads or writes, cut around the parting.
        expected: the same of the model's own tokenizer or template.
    """

    category: str
    kind: str
    ours: str
    expected: str


@dataclass(frozen=True)
class TokenizerParity:
    """How often a runtime's tokenizer and templates differ from Hugging Face's.

    Attributes:
        strings: compared, by category; each for its ids and for what they decode to.
        conversations: rendered through the runtime's template engine.
        skipped: conversations that this model's template refuses, and those with tools where it does not mention any:
            each engine treats these alike only by chance.
        mismatches: by category, those of `strings` that differ in ids or round trip, and `template`.
        edge_strings: strings outside what a product sends (NUL, characters the vocabulary has no bytes for, code points
            newer than a runtime's tables); counted, not gated.
        edge_mismatches: those of them that differ.
        examples: the first that differ, gated ones first.
    """

    strings: dict[str, int]
    conversations: int
    skipped: int
    mismatches: dict[str, int]
    edge_strings: int
    edge_mismatches: int
    examples: tuple[Mismatch, ...]

    @property
    def compared(self) -> int:
        """Texts and conversations that the gate is about."""
        return sum(self.strings.values()) + self.conversations

    @property
    def total(self) -> int:
        """Mismatches that the gate counts; it allows none."""
        return sum(self.mismatches.values())


def measure_parity(pipeline: TextPipeline, folder: Path, more: Iterable[str] = ()) -> TokenizerParity:
    """Compare `pipeline` with the tokenizer and the template of `folder`, on the corpus and the texts of `more`."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    corpus = [*samples(), *(Sample("requests", text) for text in more)]
    found = [mismatch for sample in corpus for mismatch in compare_text(pipeline, tokenizer, sample)]
    tools_known = mentions_tools(folder)
    known = [each for each in conversations() if each.tools is None or tools_known]
    rendered = [(each, render_conversation(folder, each.messages, each.tools)) for each in known]
    asked = [(each, prompt) for each, prompt in rendered if prompt is not None]
    found += [mismatch for each, prompt in asked for mismatch in compare_template(pipeline, each, prompt)]
    gated = [mismatch for mismatch in found if mismatch.category != EDGE]
    edge = [mismatch for mismatch in found if mismatch.category == EDGE]
    strings = Counter(sample.category for sample in corpus)
    edge_strings = strings.pop(EDGE, 0)
    return TokenizerParity(
        strings=dict(strings),
        conversations=len(asked),
        skipped=len(conversations()) - len(asked),
        mismatches=dict(Counter(TEMPLATE if each.kind == TEMPLATE else each.category for each in gated)),
        edge_strings=edge_strings,
        edge_mismatches=len(edge),
        examples=tuple([*gated, *edge][:EXAMPLES]),
    )


def compare_text(pipeline: TextPipeline, tokenizer: Any, sample: Sample) -> list[Mismatch]:
    """At most one mismatch of one string: its ids, or, when those agree, the text they decode to."""
    expected = tokenizer.encode(sample.text, add_special_tokens=False)
    ids = pipeline.encode(sample.text)
    if ids != expected.ids:
        at = parting(ids, expected.ids)
        start = expected.offsets[at][0] if at < len(expected.offsets) else len(sample.text)
        around = sample.text[max(0, start - CONTEXT) : start + CONTEXT]
        theirs = expected.ids[at : at + 4]
        return [Mismatch(sample.category, IDS, f"{around!r}: {ids[at : at + 4]}", f"{around!r}: {theirs}")]
    if not ids:
        return []
    text, wanted = pipeline.decode(ids), tokenizer.decode(ids, skip_special_tokens=True)
    return [] if text == wanted else [cut_around(sample.category, ROUND_TRIP, text, wanted)]


def compare_template(pipeline: TextPipeline, conversation: Conversation, wanted: str) -> list[Mismatch]:
    """At most one mismatch of one conversation, whose prompt should be `wanted`."""
    ours = pipeline.apply_template(conversation.messages, conversation.tools)
    return [] if ours == wanted else [cut_around(conversation.name, TEMPLATE, ours, wanted)]


def cut_around(category: str, kind: str, ours: str, wanted: str) -> Mismatch:
    """Both texts from a little before they part to a little after."""
    at = parting(ours, wanted)
    window = slice(max(0, at - CONTEXT), at + CONTEXT)
    return Mismatch(category, kind, repr(ours[window]), repr(wanted[window]))


def parting(ours: Sequence[Any], theirs: Sequence[Any]) -> int:
    """The first position where two sequences differ; the shorter's length when one begins the other."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(ours), len(theirs)))
