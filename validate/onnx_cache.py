"""Undo an 8-bit KV cache in an ONNX file: the same package with a float32 cache, to know what the 8 bits cost.

Written on the bytes because a device has no onnx package. Field numbers are those of onnx.proto3 (ONNX, IR version 13).
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from validate.onnx_graph import GRAPH_NODE, MODEL_GRAPH, NODE_INPUT, fields

GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_VALUE_INFO = 11, 12, 13
NODE_OP_TYPE, NODE_ATTRIBUTE = 4, 5
ATTRIBUTE_NAME = 1
VALUE_NAME, VALUE_TYPE, TYPE_TENSOR, TENSOR_ELEMENT = 1, 2, 1, 1
FLOAT, INT8 = 1, 3

OPERATOR = b"GroupQueryAttention"
QUANTIZATION = frozenset({b"k_quant_type", b"v_quant_type", b"kv_cache_bit_width"})
FIRST_SCALE = 12  # inputs of the operator from here on are the cache's scales
CACHES = (b"past_key_values.", b"present.")


class Part(NamedTuple):
    """One field of a message: its number, all its bytes, and those of its content."""

    number: int
    raw: bytes
    content: bytes


def with_float_cache(model: bytes) -> bytes:
    """A serialized model whose KV caches, if they are int8, are float32 again; any other comes back unchanged.

    Raises:
        InputRefused: the bytes are not an ONNX model.
    """
    return rewrite(model, {MODEL_GRAPH: float_graph})


def float_graph(graph: bytes) -> bytes:
    """A GraphProto without quantized caches."""
    values = dict.fromkeys((GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_VALUE_INFO), float_value)
    return rewrite(graph, {GRAPH_NODE: float_node, **values})


def float_node(node: bytes) -> bytes:
    """A NodeProto; a GroupQueryAttention loses its scales and what says that its cache is quantized."""
    inside = list(parts(node))
    if not any(part.number == NODE_OP_TYPE and part.content == OPERATOR for part in inside):
        return node
    kept, inputs = [], 0
    for part in inside:
        inputs += part.number == NODE_INPUT
        scale = part.number == NODE_INPUT and inputs > FIRST_SCALE
        if not scale and not (part.number == NODE_ATTRIBUTE and name_of(part.content, ATTRIBUTE_NAME) in QUANTIZATION):
            kept.append(part.raw)
    return b"".join(kept)


def float_value(value: bytes) -> bytes:
    """A ValueInfoProto; a cache of int8 becomes one of float32."""
    if not name_of(value, VALUE_NAME).startswith(CACHES):
        return value
    return rewrite(value, {VALUE_TYPE: lambda kind: rewrite(kind, {TYPE_TENSOR: float_tensor})})


def float_tensor(tensor: bytes) -> bytes:
    """A TypeProto.Tensor of int8 as one of float32; the number is one byte in both."""
    int8, real = bytes([INT8]), bytes([FLOAT])
    return b"".join(
        part.raw[:-1] + real if part.number == TENSOR_ELEMENT and part.content == int8 else part.raw
        for part in parts(tensor)
    )


def name_of(message: bytes, number: int) -> bytes:
    """The text field `number` of a message, or nothing."""
    return next((part.content for part in parts(message) if part.number == number), b"")


def rewrite(message: bytes, changes: dict[int, Callable[[bytes], bytes]]) -> bytes:
    """A message with some of its embedded messages, by field number, put through a function."""
    written = []
    for part in parts(message):
        change = changes.get(part.number)
        content = part.content if change is None else change(part.content)
        unchanged = content == part.content
        written.append(part.raw if unchanged else varint(part.number << 3 | 2) + varint(len(content)) + content)
    return b"".join(written)


def parts(message: bytes) -> Iterator[Part]:
    """The fields of a message, in order, with nothing between them left out."""
    before = 0
    for field in fields(message, 0, len(message)):
        yield Part(field.number, message[before : field.end], message[field.start : field.end])
        before = field.end


def varint(number: int) -> bytes:
    """A non-negative number in base 128, lowest digits first."""
    digits = []
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])
