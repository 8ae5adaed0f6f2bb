"""Compute the logits of each sequence's last position alone: nobody samples from the others.

The head is a fifth to a quarter of a small model's prefill. ONNX Runtime GenAI takes logits of one position when the
graph's output says so; it pads prompts of unequal length on the right, so that the last position is not the last row.
"""

import numpy as np
import onnx_ir as ir

from compile.onnxruntime_lowering import LENGTH_NODE, SEQLENS_NODE
from quantize.hub_weights import add_initializer
from targets.errors import StageFailed

# Validation undoes the choice by this name: it compares all positions.
CHOICE = "last_position/GatherND"


def keep_last_position(model: ir.Model) -> None:
    """Let the head of a lowered model read hidden states [batch, 1, hidden] in place of [batch, sequence, hidden].

    With `seqlens` valid tokens less one in all, `total` of them and the prompt's padding counted, and `n` rows in this
    step, a sequence's last row is `max(0, seqlens - (total - n))`: in a prefill its own length less one, in a step of
    one token that token, whose row is the only one even where padding in the cache makes the difference negative.

    Raises:
        StageFailed: the logits are not the product of hidden states and a head.
    """
    graph = model.graph
    logits = next(value for value in graph.outputs if value.name == "logits")
    head = logits.producer()
    hidden = head.inputs[0] if head is not None else None
    if head is None or hidden is None or logits.shape is None:
        raise StageFailed("the logits are not computed by a head", "report this model; build for OpenVINO only")
    made = {node.name: node.outputs[0] for node in graph if node.name in {SEQLENS_NODE, LENGTH_NODE}}
    ids = next(value for value in graph.inputs if value.name == "input_ids")
    chosen = last_rows(graph, ids, made[SEQLENS_NODE], made[LENGTH_NODE])
    gather = ir.node("GatherND", [hidden, chosen[-1].outputs[0]], {"batch_dims": 1}, name=CHOICE)
    graph.insert_before(head, [*chosen, gather])
    head.replace_input_with(0, gather.outputs[0])
    logits.shape = ir.Shape([logits.shape[0], 1, logits.shape[2]])


def last_rows(graph: ir.Graph, ids: ir.Value, seqlens: ir.Value, total: ir.Value) -> list[ir.Node]:
    """Nodes of which the last gives [batch, 1, 1] int64: the row of each sequence's last token."""
    column = add_initializer(graph, "last_position.axis", np.array(1, np.int64))
    zero = add_initializer(graph, "last_position.zero", np.array(0, np.int32))
    axes = add_initializer(graph, "last_position.axes", np.array([1, 2], np.int64))
    shape = ir.node("Shape", [ids], name="last_position/Shape")
    rows = ir.node("Gather", [shape.outputs[0], column], {"axis": 0}, name="last_position/Gather")
    new = ir.node("Cast", [rows.outputs[0]], {"to": ir.DataType.INT32.value}, name="last_position/Cast")
    past = ir.node("Sub", [total, new.outputs[0]], name="last_position/past")
    row = ir.node("Sub", [seqlens, past.outputs[0]], name="last_position/row")
    least = ir.node("Max", [row.outputs[0], zero], name="last_position/Max")
    wide = ir.node("Cast", [least.outputs[0]], {"to": ir.DataType.INT64.value}, name="last_position/wide")
    index = ir.node("Unsqueeze", [wide.outputs[0], axes], name="last_position/Unsqueeze")
    return [shape, rows, new, past, row, least, wide, index]
