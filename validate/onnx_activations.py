"""Undo 16-bit integer activations in an ONNX file: the same weights with activations in float32.

Written on the bytes because a device has no onnx package, as `validate.onnx_cache`.
"""

from validate.onnx_cache import name_of, parts, rewrite, varint
from validate.onnx_graph import GRAPH_NODE, MODEL_GRAPH, NODE_INPUT, NODE_NAME

NODE_OUTPUT = 2

# How the names of those nodes end (`compile.qnn_activations`).
SUFFIX = b"/activation"


def with_float_activations(model: bytes) -> bytes:
    """A serialized model without the nodes that round its activations; one that has none comes back unchanged.

    Raises:
        InputRefused: the bytes are not an ONNX model.
    """
    return rewrite(model, {MODEL_GRAPH: float_graph})


def float_graph(graph: bytes) -> bytes:
    """A GraphProto whose nodes read what would have been rounded."""
    nodes = [part.content for part in parts(graph) if part.number == GRAPH_NODE]
    rounding = [node for node in nodes if name_of(node, NODE_NAME).endswith(SUFFIX)]
    if not rounding:
        return graph
    # What each of those nodes gives, and what it reads.
    source = {name_of(node, NODE_OUTPUT): name_of(node, NODE_INPUT) for node in rounding}
    removed = {name_of(node, NODE_NAME) for node in rounding}
    kept = []
    for part in parts(graph):
        if part.number != GRAPH_NODE:
            kept.append(part.raw)
        elif name_of(part.content, NODE_NAME) not in removed:
            node = rewrite(part.content, {NODE_INPUT: lambda name: original(name, source)})
            kept.append(part.raw if node == part.content else varint(GRAPH_NODE << 3 | 2) + varint(len(node)) + node)
    return b"".join(kept)


def original(name: bytes, source: dict[bytes, bytes]) -> bytes:
    """The tensor that `name` is a rounded form of, or itself."""
    while name in source:
        name = source[name]
    return name
