"""Lower the hub to the operators that ONNX Runtime's CPU kernels are fast at.

attention block             -> GroupQueryAttention, rotary tables and shared KV buffers inside
q, k and v projections      -> one packed MatMulNBits; on request gate and up as well
DequantizeLinear + MatMul   -> MatMulNBits
RMSNormalization            -> SimplifiedLayerNormalization, with the residual Add: SkipSimplifiedLayerNormalization
quantized embedding         -> GatherBlockQuantized on the head's own blocks, so that a tied table is stored once
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from compile.attention import Attention, find_attentions
from compile.joined_projections import join_projections
from compile.matmul_nbits import CHANNEL_WISE_BLOCKS, HEAD_BLOCKS, Blocks, Layout, concatenate, to_blocks
from compile.onnxruntime_norms import MICROSOFT, lower_norms
from compile.rotary import rotary_tables
from export.hub_passes import producer
from export.model import ModelFacts
from export.tensor_file import TensorFile
from quantize.hub_weights import add_initializer, is_quantized, read_weight, weight_name

HEADS = ("model.embed_tokens.weight", "lm_head.weight")

# What gives a sequence's valid tokens less one [batch], and the tokens of the longest one with padding [], both int32.
SEQLENS_NODE, LENGTH_NODE = "seqlens/Cast", "total/Cast"


@dataclass
class Lowering:
    """The graph being rewritten, and what its nodes share.

    Attributes:
        graph: of a model this lowering owns.
        facts: the architecture.
        accuracy_level: of every MatMulNBits: 4 computes with int8 activations, 1 with float32.
        blocks: initializers already written, by weight name.
        file: where the numbers of weights go; None holds them.
        packed: for every node with quantized weights by name: the hub weights it holds, each with its outputs.
        held: what each weight holds that was joined from several of the hub's.
        laid: told how many of the hub's weights have just been laid out.
    """

    graph: ir.Graph
    facts: ModelFacts
    accuracy_level: int
    blocks: dict[str, tuple[Layout, list[ir.Value | None]]] = field(default_factory=dict)
    file: TensorFile | None = None
    packed: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    held: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    laid: Callable[[int], None] = lambda count: None


def lower_for_onnxruntime(
    hub: ir.Model,
    facts: ModelFacts,
    accuracy_level: int,
    file: TensorFile | None = None,
    joined: bool = False,
    laid: Callable[[int], None] = lambda count: None,
) -> dict[str, list[tuple[str, int]]]:
    """Rewrite `hub` in place.

    Args:
        hub: quantized.
        facts: the architecture.
        accuracy_level: of every MatMulNBits.
        file: where the numbers of its weights go, one weight at a time.
        joined: multiply by gate and up at once as well, with a Split behind: the CPU's kernels gain by it.
        laid: told how many of the hub's weights have just been laid out.

    Returns:
        For every MatMulNBits and GatherBlockQuantized by node name: the hub weights it holds, each with its number
        of outputs.

    Raises:
        StageFailed: an attention this file does not know.
    """
    lowering = Lowering(hub.graph, facts, accuracy_level, file=file, laid=laid)
    attentions = find_attentions(hub)
    tables = rotary_tables(hub, attentions[0], facts.max_positions)
    cos, sin = (
        add_initializer(hub.graph, name, table) for name, table in zip(("cos_cache", "sin_cache"), tables, strict=True)
    )
    lengths = sequence_lengths(lowering)
    for attention in attentions:
        lower_attention(lowering, attention, [*lengths, cos, sin])
    common.RemoveUnusedNodesPass()(hub)  # the projections that were packed still stand beside their replacement
    held = lowering.held = join_projections(hub) if joined else {}
    lower_matmuls(lowering)
    lower_embedding(lowering)
    lower_norms(hub.graph)
    hub.opset_imports[MICROSOFT] = 1
    common.RemoveUnusedNodesPass()(hub)
    hub.graph.inputs[:] = [value for value in hub.graph.inputs if value.name != "position_ids"]
    common.TopologicalSortPass()(hub)
    return {
        node: [each for name, width in parts for each in held.get(name, [(name, width)])]
        for node, parts in lowering.packed.items()
    }


def sequence_lengths(lowering: Lowering) -> list[ir.Value]:
    """`seqlens_k` [batch] and `total_sequence_length` [] int32, computed once from the attention mask."""
    graph = lowering.graph
    mask = next(value for value in graph.inputs if value.name == "attention_mask")
    one = add_initializer(graph, "one", np.array([1], np.int64))
    column = add_initializer(graph, "mask_axis", np.array(1, np.int64))
    steps = [
        ir.node("ReduceSum", [mask, one], {"keepdims": 0}, name="seqlens/ReduceSum"),
        ir.node("Shape", [mask], name="total/Shape"),
    ]
    steps.append(ir.node("Sub", [steps[0].outputs[0], one], name="seqlens/Sub"))
    steps.append(ir.node("Gather", [steps[1].outputs[0], column], {"axis": 0}, name="total/Gather"))
    casts = [
        ir.node("Cast", [node.outputs[0]], {"to": ir.DataType.INT32.value}, name=name)
        for name, node in ((SEQLENS_NODE, steps[2]), (LENGTH_NODE, steps[3]))
    ]
    graph.insert_before(graph[0], [*steps, *casts])
    return [cast.outputs[0] for cast in casts]


def lower_attention(lowering: Lowering, attention: Attention, shared: list[ir.Value]) -> None:
    """Replace one attention block by GroupQueryAttention; `shared` is seqlens, total, cos and sin."""
    graph, facts = lowering.graph, lowering.facts
    past = {value.name: value for value in graph.inputs}
    layer, prefix = attention.layer, f"layers.{attention.layer}.attention"
    projections = [attention.query, attention.key, attention.value]
    packed = pack_projections(lowering, projections, f"{prefix}.qkv")
    node = ir.node(
        "GroupQueryAttention",
        inputs=[
            *([packed, None, None] if packed is not None else [merge_heads(lowering, value) for value in projections]),
            past[f"past_key_values.{layer}.key"],
            past[f"past_key_values.{layer}.value"],
            *shared,
        ],
        attributes={
            "num_heads": facts.n_heads,
            "kv_num_heads": facts.n_kv_heads,
            "scale": attention.scale,
            "do_rotary": 1,
            "rotary_interleaved": 0,
        },
        domain=MICROSOFT,
        num_outputs=3,
        name=f"{prefix}/GroupQueryAttention",
    )
    reshape = attention.context.producer()
    graph.insert_before(reshape if reshape is not None else graph[0], node)
    context, *present = node.outputs
    context.dtype, context.shape = ir.DataType.FLOAT, attention.context.shape
    attention.context.replace_all_uses_with(context)
    for kind, value in zip(("key", "value"), present, strict=True):
        position, old = next((i, v) for i, v in enumerate(graph.outputs) if v.name == f"present.{layer}.{kind}")
        value.type, value.shape = old.type, old.shape
        old.name = f"{old.name}.unfused"
        value.name = f"present.{layer}.{kind}"
        graph.outputs[position] = value


def merge_heads(lowering: Lowering, projection: ir.Value) -> ir.Value:
    """A projection [batch, sequence, heads * head_dim], whether or not its heads are apart."""
    norm = producer(projection, "RMSNormalization")
    if norm is None:
        return projection
    sizes = np.array([0, 0, -1], np.int64)
    shape = lowering.graph.initializers.get("merged") or add_initializer(lowering.graph, "merged", sizes)
    merged = ir.node("Reshape", [projection, shape], name=f"{norm.name}/merged")
    lowering.graph.insert_after(norm, merged)
    return merged.outputs[0]


def pack_projections(lowering: Lowering, projections: list[ir.Value], name: str) -> ir.Value | None:
    """Compute q, k and v [.., out] by one MatMulNBits, or None when they are not alike (a bias, mixed widths)."""
    matmuls = [producer(value, "MatMul") for value in projections]
    sources = [is_quantized(node.inputs[1]) if node else None for node in matmuls]
    first = matmuls[0]
    if first is None or any(node is None or node.inputs[0] is not first.inputs[0] for node in matmuls):
        return None
    if any(source is None for source in sources):
        return None
    blocks = [to_blocks(read_weight(source)) for source in sources if source is not None]
    if len({(part.bits, part.block_size, part.zero_points is None) for part in blocks}) > 1:
        return None
    names = [weight_name(source) for source in sources if source is not None]
    widths = [(owner, part.codes.shape[0]) for owner, part in zip(names, blocks, strict=True)]
    joined = concatenate(blocks)
    node = matmul_nbits(lowering, first.inputs[0], joined.layout, write_blocks(lowering, name, joined), name)
    lowering.graph.insert_after(first, node)
    lowering.packed[str(node.name)] = widths
    lowering.laid(len(widths))
    return node.outputs[0]


def lower_matmuls(lowering: Lowering) -> None:
    """Replace every MatMul with a quantized weight by MatMulNBits."""
    for matmul in list(lowering.graph):
        source = is_quantized(matmul.inputs[1]) if matmul.op_type == "MatMul" else None
        if source is None:
            continue
        name = weight_name(source)
        layout, inputs = weight_blocks(lowering, name, source)
        node = matmul_nbits(lowering, matmul.inputs[0], layout, inputs, name)
        lowering.packed[str(node.name)] = [(name, layout.out_channels)]
        ir.convenience.replace_nodes_and_values(
            lowering.graph, matmul, [matmul], [node], list(matmul.outputs), list(node.outputs)
        )


def weight_blocks(lowering: Lowering, name: str, source: ir.Node) -> tuple[Layout, list[ir.Value | None]]:
    """The layout and the initializers of a hub weight, written once however many nodes read them."""
    if name not in lowering.blocks:
        blocks = to_blocks(read_weight(source), HEAD_BLOCKS if name in HEADS else CHANNEL_WISE_BLOCKS)
        lowering.blocks[name] = blocks.layout, write_blocks(lowering, name, blocks)
        lowering.laid(len(lowering.held.get(name, (name,))))
    return lowering.blocks[name]


def write_blocks(lowering: Lowering, name: str, blocks: Blocks) -> list[ir.Value | None]:
    """The initializers of `blocks` in MatMulNBits' order: codes, scales and, when asymmetric, zero points."""
    arrays: dict[str, NDArray[Any] | None] = {
        "codes": blocks.codes,
        "scales": blocks.scales,
        "zero_points": blocks.zero_points,
    }
    return [
        add_initializer(lowering.graph, f"{name}.blocks.{kind}", array, lowering.file)
        for kind, array in arrays.items()
        if array is not None
    ]


def matmul_nbits(
    lowering: Lowering, hidden: ir.Value | None, layout: Layout, inputs: list[ir.Value | None], name: str
) -> ir.Node:
    """Multiply `hidden` [.., in] by a weight of that layout."""
    return ir.node(
        "MatMulNBits",
        inputs=[hidden, *inputs],
        attributes={
            "K": layout.in_channels,
            "N": layout.out_channels,
            "bits": layout.bits,
            "block_size": layout.block_size,
            "accuracy_level": lowering.accuracy_level,
        },
        domain=MICROSOFT,
        name=f"{name}/MatMulNBits",
    )


def lower_embedding(lowering: Lowering) -> None:
    """Gather rows of the quantized table itself; the hub's form would dequantize the whole table at every step."""
    graph = lowering.graph
    for gather in list(graph):
        source = is_quantized(gather.inputs[0]) if gather.op_type == "Gather" else None
        if source is None:
            continue
        name = weight_name(source)
        layout, (codes, *rest) = weight_blocks(lowering, name, source)
        rows = add_initializer(graph, f"{name}.rows", np.array([layout.out_channels, -1], np.int64))
        table = ir.node("Reshape", [codes, rows], name=f"{name}/Reshape")
        node = ir.node(
            "GatherBlockQuantized",
            inputs=[table.outputs[0], gather.inputs[1], *rest],
            attributes={"bits": layout.bits, "block_size": layout.block_size, "gather_axis": 0, "quantize_axis": 1},
            domain=MICROSOFT,
            name=f"{name}/GatherBlockQuantized",
        )
        lowering.packed[str(node.name)] = [(name, layout.out_channels)]
        ir.convenience.replace_nodes_and_values(
            graph, gather, [gather], [table, node], list(gather.outputs), list(node.outputs)
        )
