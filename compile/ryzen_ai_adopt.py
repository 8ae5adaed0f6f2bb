"""Put a checkpoint's numbers in place of a quantized hub's, and hold the graph that is made of it against them."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from compile.quark_checkpoint import EMBEDDING, Checkpoint
from quantize.hub_weights import CODE_TYPES, add_initializer, is_quantized, quantized_weights, squeeze_groups, storage
from quantize.weight import QuantizedWeight
from targets.errors import StageFailed

REPORT = "report this model: its weights cannot be named as transformers names them"


def adopt(hub: ir.Model, checkpoint: Checkpoint) -> None:
    """Give every linear weight, vector and the embedding table of `hub` the checkpoint's numbers, in place.

    Args:
        hub: quantized, its head rounded to a weight of its own.
        checkpoint: of the same architecture, its weights in the scheme that the hub is quantized in.

    Raises:
        StageFailed: a weight or a vector is in one of the two alone, or has another form there.
    """
    adopt_embedding(hub, checkpoint)
    adopted = set()
    for name, node, weight in quantized_weights(hub):
        theirs = checkpoint.packed.get(name)
        if theirs is None or form(theirs) != form(weight):
            other = "missing" if theirs is None else form(theirs)
            raise StageFailed(f"{name} is {form(weight)} in the hub, and {other} in the checkpoint", REPORT)
        put(node, theirs)
        adopted.add(name)
    for name, array in checkpoint.floats.items():
        value = hub.graph.initializers.get(name)
        if value is None or value.const_value is None or tuple(value.const_value.shape.numpy()) != array.shape:
            raise StageFailed(f"the hub has no {name} of {array.shape}", REPORT)
        value.const_value = ir.tensor(np.ascontiguousarray(array), name=name)
    if adopted != set(checkpoint.packed):
        missing = sorted(set(checkpoint.packed) - adopted)
        raise StageFailed(f"the hub has no weight {missing[0]}", REPORT)


def adopt_embedding(hub: ir.Model, checkpoint: Checkpoint) -> None:
    """Let the Gather read a table of floats, as Quark leaves it, in place of a quantized one."""
    gathers = [node for node in hub.graph if node.op_type == "Gather" and is_quantized(node.inputs[0])]
    if len(gathers) != 1:
        raise StageFailed(f"{len(gathers)} tables are looked up in the hub, and not one", REPORT)
    gathers[0].replace_input_with(0, add_initializer(hub.graph, EMBEDDING, checkpoint.floats[EMBEDDING]))
    common.RemoveUnusedNodesPass()(hub)


def form(weight: QuantizedWeight) -> tuple[tuple[int, ...], int, int, bool]:
    """Shape, code width, group size, and whether there are zero points."""
    return weight.codes.shape, weight.bits, weight.group_size, weight.zero_points is not None


def put(dequantize: ir.Node, weight: QuantizedWeight) -> None:
    """Store a weight of the same form behind a DequantizeLinear."""
    arrays = [storage(weight), squeeze_groups(weight.scales)]
    if weight.zero_points is not None:
        arrays.append(squeeze_groups(weight.zero_points.astype(CODE_TYPES[weight.bits, False])))
    for value, array in zip(dequantize.inputs, arrays, strict=True):
        if value is not None:
            value.const_value = ir.tensor(np.ascontiguousarray(array), name=value.name)


def check_same_floats(checkpoint: Checkpoint, graph: ir.Model) -> None:
    """Hold every vector of a graph against the checkpoint, and the embedding table where the graph has it in floats.

    Raises:
        StageFailed: one differs.
    """
    for name, array in checkpoint.floats.items():
        value = graph.graph.initializers.get(name)
        if name == EMBEDDING and value is None:
            continue
        if value is None or value.const_value is None or not np.array_equal(value.const_value.numpy(), array):
            raise StageFailed(f"ryzen-ai package: {name} differs between checkpoint and graph", "report this model")
