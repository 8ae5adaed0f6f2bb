"""The grammar of calls, byte by byte, and greedy decoding under it with a made-up model."""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from targets.errors import InputRefused, StageFailed
from tests.test_validate_vehicle import fault_of
from validate.constrained import CallGrammar, Vocabulary, byte_of_character, forced, is_end, write_call
from validate.vehicle import requests, tools
from validate.vehicle_session import Branches

SCHEMAS: dict[str, dict[str, Any]] = {
    "call": {
        "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 5}, "line": {"enum": ["home", "work"]}}
    },
    "fan": {"properties": {"level": {"type": "integer", "minimum": 0, "maximum": 12}}},
    "heat": {"properties": {"celsius": {"type": "number", "minimum": 16, "maximum": 18, "multipleOf": 0.5}}},
    "dial": {"properties": {"number": {"type": "string", "pattern": "^\\+?[0-9]{3,15}$"}}},
    "end": {"properties": {}},
}


def accepts(grammar: CallGrammar, text: str | bytes) -> bool:
    state = grammar.advance(grammar.start, text.encode() if isinstance(text, str) else text)
    return state is not None and is_end(state)


@cache
def small() -> CallGrammar:
    return CallGrammar(SCHEMAS)


@pytest.mark.parametrize(
    "text",
    [
        '{"name":"fan","arguments":{"level":0}}',
        '{"name":"fan","arguments":{"level":12}}',
        '{"name":"heat","arguments":{"celsius":17.5}}',
        '{"name":"heat","arguments":{"celsius":18}}',
        '{"name":"end","arguments":{}}',
        '{"name":"call","arguments":{"name":"x","line":"home"}}',
        '{"name":"call","arguments":{"name":"J\u00f6 1","line":"work"}}',
        '{"name":"call","arguments":{"name":"\U0001f600\U0001f600","line":"home"}}',
        '{"name":"dial","arguments":{"number":"+4989123"}}',
        '{"name":"dial","arguments":{"number":"123456789012345"}}',
        '{"name":"dial","arguments":{"number":"+123456789012345"}}',
    ],
)
def test_calls_are_accepted(text: str) -> None:
    assert accepts(small(), text)


@pytest.mark.parametrize(
    "text",
    [
        '{"name":"fan","arguments":{"level":13}}',
        '{"name":"fan","arguments":{"level":1.5}}',
        '{"name":"fan", "arguments":{"level":1}}',
        '{"name":"fan","arguments":{}}',
        '{"name":"heat","arguments":{"celsius":15.5}}',
        '{"name":"call","arguments":{"name":"toolong","line":"work"}}',
        '{"name":"call","arguments":{"name":"","line":"work"}}',
        '{"name":"call","arguments":{"name":" x","line":"work"}}',
        '{"name":"call","arguments":{"name":"x","line":"cell"}}',
        '{"name":"call","arguments":{"name":"a\\n","line":"work"}}',
        '{"name":"dial","arguments":{"number":"12"}}',
        '{"name":"dial","arguments":{"number":"+12"}}',
        '{"name":"dial","arguments":{"number":"1234567890123456"}}',
        '{"name":"dial","arguments":{"number":"1+2345"}}',
        '{"name":"nothing","arguments":{}}',
        '{"name":"end","arguments":{}}}',
        "",
    ],
)
def test_everything_else_is_not(text: str) -> None:
    assert not accepts(small(), text)


def test_bytes_that_are_no_text_are_not_accepted() -> None:
    lead = b'{"name":"call","arguments":{"name":"'
    grammar = small()
    assert grammar.advance(grammar.start, lead + b"\xff") is None
    assert grammar.advance(grammar.start, lead + b"\xc3") is not None  # half of a character
    assert grammar.advance(grammar.start, lead + b'\xc3"') is None


def test_what_has_no_choice_is_known() -> None:
    grammar = small()
    assert forced(grammar, grammar.start) == b'{"name":"'
    state = grammar.advance(grammar.start, b'{"name":"c')
    assert state is not None
    assert forced(grammar, state) == b'all","arguments":{"name":"'


def test_the_suite_lies_inside_its_grammar() -> None:
    grammar = CallGrammar({tool.name: tool.arguments for tool in tools()})
    assert all(accepts(grammar, request.call) for request in requests())


def test_a_schema_that_is_not_supported_is_refused() -> None:
    for schema in ({"type": "array"}, {"type": "integer"}, {"type": "string", "pattern": "^[a-f]+$"}):
        with pytest.raises(InputRefused, match="'x'"):
            CallGrammar({"f": {"properties": {"x": schema}}})


@cache
def byte_tokenizer() -> Tokenizer:
    """One token a byte, and a few longer ones."""
    vocabulary = dict(byte_of_character())
    for pair in ("me", "an", "or"):
        vocabulary[pair] = len(vocabulary)
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[("m", "e"), ("a", "n"), ("o", "r")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<end>"])
    return made


class Wishing:
    """A model that wants to write one text, whatever it has read, and then something forbidden."""

    def __init__(self, wish: str, size: int) -> None:
        self.wish, self.size = byte_tokenizer().encode(wish, add_special_tokens=False).ids, size
        self.read: list[int] = []

    def reset(self) -> None:
        self.read = []

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        self.read += tokens.tolist()
        written = byte_tokenizer().decode(self.read[1:])
        wish = byte_tokenizer().decode(self.wish)
        logits = np.zeros((len(tokens), self.size), np.float32)
        logits[-1, self.size - 1] = 9.0  # the end token, which is never text
        if wish.startswith(written) and len(written) < len(wish):
            following = byte_tokenizer().encode(wish[len(written) :], add_special_tokens=False).ids[0]
            logits[-1, following] = 5.0
        return logits


def write(wish: str, grammar: CallGrammar, prompt: Sequence[int] = (65,)) -> str:
    vocabulary = Vocabulary(byte_tokenizer())
    session = Wishing(wish, byte_tokenizer().get_vocab_size())
    return write_call(Branches(session, 4), prompt, grammar, vocabulary)


@pytest.mark.parametrize(
    "wish",
    ['{"name":"call","arguments":{"name":"Ann","line":"work"}}', '{"name":"heat","arguments":{"celsius":16.5}}'],
)
def test_a_model_that_wants_a_call_writes_it(wish: str) -> None:
    assert write(wish, small()) == wish


def test_a_model_that_wants_anything_else_still_writes_a_call() -> None:
    call = json.loads(write("Sure, I can help with that!", small()))
    assert call["name"] in SCHEMAS


def test_whatever_a_model_wants_it_writes_valid_calls_of_the_suite() -> None:
    source = np.random.default_rng(5)
    grammar = CallGrammar({tool.name: tool.arguments for tool in tools()})
    schemas = {tool.name: tool.arguments for tool in tools()}
    vocabulary = Vocabulary(byte_tokenizer())

    class Whimsical:
        """A model that wants something else at every step."""

        def reset(self) -> None: ...

        def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
            return source.normal(size=(len(tokens), byte_tokenizer().get_vocab_size())).astype(np.float32)

    written = [json.loads(write_call(Branches(Whimsical(), 4), [1], grammar, vocabulary)) for _ in range(60)]
    assert len({call["name"] for call in written}) >= 8
    assert [fault for call in written if (fault := fault_of(call["arguments"], schemas[call["name"]]))] == []


def test_a_vocabulary_without_the_needed_bytes_is_an_error() -> None:
    made = Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    made.decoder = decoders.ByteLevel()

    class Blank:
        def reset(self) -> None: ...

        def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
            return np.zeros((len(tokens), 2), np.float32)

    with pytest.raises(StageFailed, match="no token"):
        write_call(Branches(Blank(), 4), [0], small(), Vocabulary(made))


def test_a_tokenizer_that_is_not_byte_level_is_refused() -> None:
    with pytest.raises(InputRefused, match="byte-level"):
        Vocabulary(Tokenizer(models.BPE(vocab={"a": 0}, merges=[])))
