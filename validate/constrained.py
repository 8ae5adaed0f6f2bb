"""Greedy decoding that can write nothing but one call of the declared tools."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from targets.errors import InputRefused, StageFailed
from validate.vehicle_session import Branches

FIRST_CANDIDATES = 64  # likely tokens tried before all of them are sorted
LONGEST_TEXT = 80  # characters of a free text whose schema does not say
ANY_TEXT = "text"  # the one repeated element of the grammar: a JSON string without escapes
NUMBER = "number"
DIALLED = r"^\+?[0-9]{3,15}$"  # the one pattern a schema may give


@dataclass(frozen=True)
class Text:
    """A JSON string's contents of `shortest` to `longest` characters, and the closing quote.

    `pattern` names the characters: `text` (anything but quotes, backslashes and control characters) or `number`
    (digits; a plus sign in front is not counted).
    """

    shortest: int
    longest: int
    pattern: str

    @property
    def uncounted(self) -> str:
        """What may stand in front and is no part of the length."""
        return "+" if self.pattern == NUMBER else ""


Piece = str | Text


@dataclass(frozen=True)
class State:
    """Where in the grammar a text stands: the rest of every alternative that it can still become.

    Attributes:
        rests: bytes still to come up to the next `Text`, and the pieces after them.
        inside: the `Text` being written with the bytes it has so far, if any; `rests` follow its closing quote.
    """

    rests: tuple[tuple[bytes, tuple[Piece, ...]], ...]
    inside: tuple[Text, bytes] | None = None


class CallGrammar:
    """All calls of some tools, as a machine over bytes.

    A call is compact JSON, the name first, then the arguments in the order of the schema, each of them there. A tool's
    enumerations, numbers and booleans are written out as alternatives; free texts are the one repeated element.
    """

    def __init__(self, schemas: Mapping[str, Mapping[str, Any]]) -> None:
        """Compile the argument schemas by tool name."""
        calls = [call for name, schema in schemas.items() for call in write_calls(name, schema)]
        self.start = settle(tuple(split(call) for call in calls))
        self.advance_byte = lru_cache(maxsize=1 << 16)(advance_byte)

    def advance(self, state: State, text: bytes) -> State | None:
        """The state after `text`; None when the grammar has no such continuation."""
        now: State | None = state
        for byte in text:
            if now is None:
                return None
            now = self.advance_byte(now, byte)
        return now


def write_calls(name: str, schema: Mapping[str, Any]) -> list[tuple[Piece, ...]]:
    """Every form of a tool's calls: texts, with `Text` where one is free."""
    calls: list[tuple[Piece, ...]] = [(f'{{"name":{json.dumps(name)},"arguments":{{',)]
    for index, (key, argument) in enumerate(schema["properties"].items()):
        lead = f"{',' if index else ''}{json.dumps(key)}:"
        calls = [(*call, lead, *value) for call in calls for value in write_values(key, argument)]
    return [(*call, "}}") for call in calls]


def write_values(key: str, schema: Mapping[str, Any]) -> list[tuple[Piece, ...]]:
    """The values of an argument.

    Raises:
        InputRefused: the schema has none of the supported forms.
    """
    kind = schema.get("type")
    if "enum" in schema:
        return [(json.dumps(value, ensure_ascii=False),) for value in schema["enum"]]
    if kind == "boolean":
        return [("true",), ("false",)]
    if kind in ("integer", "number") and {"minimum", "maximum"} <= schema.keys():
        return [(text,) for text in write_numbers(schema)]
    if kind == "string" and schema.get("pattern") == DIALLED:
        return [('"', Text(3, 15, NUMBER))]
    if kind == "string" and "pattern" not in schema:
        return [('"', Text(schema.get("minLength", 1), schema.get("maxLength", LONGEST_TEXT), ANY_TEXT))]
    raise InputRefused(
        f"the schema of argument '{key}' is not supported",
        "give it an enum, the type boolean, a number with minimum and maximum, or a string without a pattern",
    )


def write_numbers(schema: Mapping[str, Any]) -> list[str]:
    """The numbers between minimum and maximum, whole ones without a point."""
    step = schema.get("multipleOf", 1)
    count = round((schema["maximum"] - schema["minimum"]) / step)
    values = [schema["minimum"] + index * step for index in range(count + 1)]
    return [json.dumps(int(value) if float(value).is_integer() else value) for value in values]


def split(pieces: Sequence[Piece]) -> tuple[bytes, tuple[Piece, ...]]:
    """(bytes up to the first `Text`, that `Text` and what follows)."""
    lead = b""
    for index, piece in enumerate(pieces):
        if isinstance(piece, Text):
            return lead, tuple(pieces[index:])
        lead += piece.encode()
    return lead, ()


def settle(rests: tuple[tuple[bytes, tuple[Piece, ...]], ...]) -> State:
    """A state in which a `Text` that has been reached is entered.

    Alternatives that stand at a `Text` at the same time are forms of one tool, and so it is the same `Text`.
    """
    reached = {pieces[0] for lead, pieces in rests if not lead and pieces}
    if len(reached) == 1 and all(not lead and pieces for lead, pieces in rests):
        text = reached.pop()
        if isinstance(text, Text):
            return State(tuple(dict.fromkeys(split(pieces[1:]) for _, pieces in rests)), (text, b""))
    return State(rests)


def advance_byte(state: State, byte: int) -> State | None:
    """The state after one byte more, or None."""
    if state.inside is None:
        rests = tuple((lead[1:], pieces) for lead, pieces in state.rests if lead[:1] == bytes([byte]))
        return settle(rests) if rests else None
    text, written = state.inside
    if byte == ord('"'):
        complete = is_complete(written) and len(written.decode().lstrip(text.uncounted)) >= text.shortest
        return settle(state.rests) if complete else None
    longer = written + bytes([byte])
    return State(state.rests, (text, longer)) if fits(text, longer) else None


def is_complete(written: bytes) -> bool:
    """Whether bytes end with a whole character."""
    try:
        written.decode()
    except UnicodeDecodeError:
        return False
    return True


def fits(text: Text, written: bytes) -> bool:
    """Whether `written` can begin the contents of `text`; an unfinished last character counts as one."""
    if text.pattern == NUMBER:
        digits = written.removeprefix(b"+")
        return len(digits) <= text.longest and (not digits or digits.isdigit())
    characters = as_characters(written)
    if characters is None or len(characters) > text.longest:
        return False
    return characters[:1] != " " and not any(char in '"\\' or char < " " or char == "\x7f" for char in characters)


def as_characters(written: bytes) -> str | None:
    """The text of bytes whose last character may be unfinished; None when they are no UTF-8."""
    try:
        return written.decode()
    except UnicodeDecodeError as error:
        unfinished = error.reason == "unexpected end of data"
        return written[: error.start].decode() + "\ufffd" if unfinished else None


def forced(grammar: CallGrammar, state: State) -> bytes:
    """The bytes that must come next, as far as there is no choice."""
    found = b""
    while state.inside is None:
        nexts = {lead[:1] for lead, _ in state.rests}
        if len(nexts) != 1 or b"" in nexts:
            break
        byte = nexts.pop()
        following = grammar.advance_byte(state, byte[0])
        if following is None:
            break
        found, state = found + byte, following
    return found


def is_end(state: State) -> bool:
    """Whether the call is complete."""
    return state.inside is None and all(not lead and not pieces for lead, pieces in state.rests)


def write_call(branches: Branches, prompt: Sequence[int], grammar: CallGrammar, vocabulary: "Vocabulary") -> str:
    """The call that a model writes greedily after what was fed and `prompt`, when it may write nothing else.

    What the grammar leaves no choice in is fed at once, as the tokenizer writes it.

    Raises:
        StageFailed: no token of the vocabulary continues the call.
    """
    state, written, pending = grammar.start, b"", list(prompt)
    while not is_end(state):
        must = forced(grammar, state)
        if must:
            next_state = grammar.advance(state, must)
            pending += vocabulary.encode(must.decode())
        else:
            logits = branches.step(pending)[-1]
            token, next_state = best_token(logits, state, grammar, vocabulary)
            must, pending = vocabulary.texts[token], [token]
        if next_state is None:
            raise StageFailed("the grammar of the calls contradicts itself", "report this suite")
        state, written = next_state, written + must
    return written.decode()


def best_token(
    logits: NDArray[np.float32], state: State, grammar: CallGrammar, vocabulary: "Vocabulary"
) -> tuple[int, State]:
    """The most likely token that the grammar allows, and the state after it."""
    for count in (FIRST_CANDIDATES, len(logits)):
        likely = np.argpartition(-logits, min(count, len(logits)) - 1)[:count]
        for token in sorted(likely.tolist(), key=lambda each: (-logits[each], each)):
            text = vocabulary.texts.get(token)
            following = grammar.advance(state, text) if text else None
            if following is not None:
                return token, following
    raise StageFailed("no token continues the call", "report this model: its vocabulary lacks single characters")


class Vocabulary:
    """A byte-level vocabulary: the bytes of every token that is text."""

    def __init__(self, tokenizer: Any) -> None:
        """Read a `tokenizers.Tokenizer`.

        Raises:
            InputRefused: its tokens are not written in bytes.
        """
        self.tokenizer = tokenizer
        kind = json.loads(tokenizer.to_str()).get("decoder") or {}
        if kind.get("type") != "ByteLevel":
            raise InputRefused("constrained decoding needs a byte-level tokenizer", "score this model by ranking alone")
        special = set(tokenizer.get_added_tokens_decoder())
        table = byte_of_character()
        self.texts = {
            token: bytes(table[char] for char in text)
            for text, token in tokenizer.get_vocab().items()
            if token not in special and all(char in table for char in text)
        }

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids


@cache
def byte_of_character() -> dict[str, int]:
    """GPT-2's spelling of bytes as characters: printable Latin-1 as itself, the others from U+0100 on, in order."""
    itself = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in itself]
    return {chr(byte): byte for byte in itself} | {chr(0x100 + index): byte for index, byte in enumerate(others)}
