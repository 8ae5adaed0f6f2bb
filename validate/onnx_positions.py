"""Let a package's ONNX file give the logits of every position, not those of the last one alone.

A product needs no others, but a comparison with the float model looks at all.
The head multiplies each position by itself, so that what it says of one does not depend on how many it is given.
Written on the bytes because a device has no onnx package. Field numbers are those of onnx.proto3 (ONNX, IR version 13).
"""

from validate.onnx_cache import (
    GRAPH_OUTPUT,
    NODE_ATTRIBUTE,
    NODE_OP_TYPE,
    TYPE_TENSOR,
    VALUE_NAME,
    VALUE_TYPE,
    name_of,
    parts,
    rewrite,
    varint,
)
from validate.onnx_graph import GRAPH_NODE, LENGTH_DELIMITED, MODEL_GRAPH, NODE_INPUT, NODE_NAME

TENSOR_SHAPE, SHAPE_DIMENSION, DIMENSION_PARAMETER = 2, 1, 2

# The node of compile.last_position that picks the rows the head reads.
CHOICE = b"last_position/GatherND"
PASS_ON = b"Identity"
LOGITS, SEQUENCE = b"logits", b"sequence_length"


def with_all_positions(model: bytes) -> bytes:
    """A serialized model whose head reads all positions; one that does already comes back unchanged.

    Raises:
        InputRefused: the bytes are not an ONNX model.
    """
    if CHOICE not in model:
        return model
    return rewrite(model, {MODEL_GRAPH: lambda graph: rewrite(graph, {GRAPH_NODE: whole, GRAPH_OUTPUT: lengthened})})


def whole(node: bytes) -> bytes:
    """A NodeProto; the one that picks rows passes its first input on."""
    if name_of(node, NODE_NAME) != CHOICE:
        return node
    kept, inputs = [], 0
    for part in parts(node):
        inputs += part.number == NODE_INPUT
        if part.number == NODE_OP_TYPE:
            kept.append(message(NODE_OP_TYPE, PASS_ON))
        elif part.number != NODE_ATTRIBUTE and not (part.number == NODE_INPUT and inputs > 1):
            kept.append(part.raw)
        # The operators that said which rows are left without a reader; the runtime drops them.
    return b"".join(kept)


def lengthened(value: bytes) -> bytes:
    """A ValueInfoProto; logits [batch, 1, vocab] become [batch, sequence_length, vocab]."""
    if name_of(value, VALUE_NAME) != LOGITS:
        return value
    return rewrite(
        value, {VALUE_TYPE: lambda kind: rewrite(kind, {TYPE_TENSOR: lambda one: rewrite(one, {TENSOR_SHAPE: shape})})}
    )


def shape(dimensions: bytes) -> bytes:
    """A TensorShapeProto with a name in place of its second size."""
    found = [part.raw for part in parts(dimensions)]
    return b"".join([found[0], message(SHAPE_DIMENSION, message(DIMENSION_PARAMETER, SEQUENCE)), *found[2:]])


def message(number: int, content: bytes) -> bytes:
    """A field whose length is written in front of it."""
    return varint(number << 3 | LENGTH_DELIMITED) + varint(len(content)) + content
