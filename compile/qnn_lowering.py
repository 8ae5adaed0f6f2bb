"""Rewrite the hub into one graph of fixed shapes that Qualcomm's HTP takes whole.

hub                                 -> graph
attention, rotary embedding         -> RotaryEmbedding and Attention (opset 23) over a cache of fixed length
DequantizeLinear, Transpose, MatMul -> MatMulNBits, float activations
quantized embedding                 -> Gather of the codes and of their scales, multiplied
RMSNormalization                    -> as it is: decomposed, its squares overflow the HTP's float16
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from compile.attention import Attention, find_attentions
from compile.onnxruntime_lowering import Lowering, lower_matmuls, weight_blocks
from compile.onnxruntime_norms import MICROSOFT
from compile.rotary import Table
from export.hub_passes import producer
from export.model import ModelFacts
from quantize.hub_weights import add_initializer, is_quantized, read_weight, weight_name

# Added to the score of a hidden position. The HTP computes in float16: infinities would turn a row without visible
# positions into NaN, and -65504 plus a negative score is an infinity too. exp(-1e4) is 0 in float16 and in float32.
HIDDEN = -1e4

# Float activations: ONNX Runtime on the CPU then multiplies in float32. The HTP takes no notice of it.
ACCURACY_LEVEL = 0

Packed = dict[str, list[tuple[str, int]]]


@dataclass(frozen=True)
class StaticShape:
    """The fixed lengths of one graph, in tokens.

    Attributes:
        tokens: that the graph takes at once: 1 to decode, a chunk to prefill.
        context: slots of the KV cache that it reads.
    """

    tokens: int
    context: int


def lower_for_htp(hub: ir.Model, facts: ModelFacts, shape: StaticShape, tables: tuple[Table, Table]) -> Packed:
    """Rewrite `hub` in place into a graph of static shapes.

    Inputs, with n for `shape.tokens` and c for `shape.context`:
        input_ids int32 [1, n]; attention_mask int32 [1, c + n], 1 where a slot of the cache or a new token may be
        seen; position_ids int32 [1, n]; past_key_values.<layer>.{key,value} float32 [1, kv_heads, c, head_dim].
    Outputs:
        logits float32 [1, n, vocab]; present.<layer>.{key,value} float32 [1, kv_heads, n, head_dim]: the new tokens'
        only, which the caller writes into free slots of its cache.

    Args:
        hub: a quantized hub that this function may change.
        facts: its architecture.
        shape: fixed lengths.
        tables: rotary cosines and sines [positions, head_dim / 2], the same for every graph that shares weights.

    Returns:
        For every MatMulNBits by node name the hub weights it holds, each with its number of outputs.

    Raises:
        StageFailed: an attention this file does not know.
    """
    graph = hub.graph
    lowering = Lowering(graph, facts, ACCURACY_LEVEL)
    attentions = find_attentions(hub)
    inputs = set_inputs(graph, facts, shape)
    angles = gather_angles(graph, inputs["position_ids"], tables)
    mask = additive_mask(graph, inputs["attention_mask"], shape)
    for attention in attentions:
        lower_attention(graph, facts, shape, attention, [*angles, mask])
    common.RemoveUnusedNodesPass()(hub)
    lower_matmuls(lowering)
    lower_embedding(lowering)
    hub.opset_imports[MICROSOFT] = 1
    common.RemoveUnusedNodesPass()(hub)
    common.TopologicalSortPass()(hub)
    fix_shapes(hub, shape)
    return lowering.packed


def set_inputs(graph: ir.Graph, facts: ModelFacts, shape: StaticShape) -> dict[str, ir.Value]:
    """Give every input its fixed shape, and token-wise ones int32, which the HTP reads without a conversion."""
    sizes = {
        "input_ids": (1, shape.tokens),
        "attention_mask": (1, shape.context + shape.tokens),
        "position_ids": (1, shape.tokens),
    }
    cache = (1, facts.n_kv_heads, shape.context, facts.head_dim)
    for value in graph.inputs:
        name = value.name or ""
        value.shape = ir.Shape(sizes.get(name, cache))
        if name in sizes:
            value.type = ir.TensorType(ir.DataType.INT32)
    return {value.name or "": value for value in graph.inputs}


def gather_angles(graph: ir.Graph, positions: ir.Value, tables: tuple[Table, Table]) -> list[ir.Value]:
    """Cosines and sines [1, n, head_dim / 2] of the new tokens' positions, once for all layers."""
    nodes = []
    for name, table in zip(("cos", "sin"), tables, strict=True):
        cache = add_initializer(graph, f"rotary.{name}", table)
        nodes.append(ir.node("Gather", [cache, positions], {"axis": 0}, name=f"rotary/{name}"))
    graph.insert_before(graph[0], nodes)
    return [node.outputs[0] for node in nodes]


def additive_mask(graph: ir.Graph, visible: ir.Value, shape: StaticShape) -> ir.Value:
    """What is added to the scores [1, 1, n, c + n]: 0, or `HIDDEN` once or twice.

    Made in the graph from zeros and ones, so that no caller can pass an infinity.
    """
    n, total = shape.tokens, shape.context + shape.tokens
    # 1 on and below the diagonal of the new tokens, and for all of the cache.
    causal = np.tril(np.ones((n, total), np.float32), shape.context)
    later = add_initializer(graph, "mask.later", ((1 - causal) * np.float32(HIDDEN))[None, None])
    one = add_initializer(graph, "mask.one", np.array([1], np.float32))
    hidden = add_initializer(graph, "mask.hidden", np.array([-HIDDEN], np.float32))
    axes = add_initializer(graph, "mask.shape", np.array([1, 1, 1, total], np.int64))
    cast = ir.node("Cast", [visible], {"to": ir.DataType.FLOAT.value}, name="mask/Cast")
    shifted = ir.node("Sub", [cast.outputs[0], one], name="mask/Sub")
    scaled = ir.node("Mul", [shifted.outputs[0], hidden], name="mask/Mul")
    row = ir.node("Reshape", [scaled.outputs[0], axes], name="mask/Reshape")
    both = ir.node("Add", [row.outputs[0], later], name="mask/Add")
    graph.insert_before(graph[0], [cast, shifted, scaled, row, both])
    return both.outputs[0]


def lower_attention(
    graph: ir.Graph, facts: ModelFacts, shape: StaticShape, attention: Attention, shared: list[ir.Value]
) -> None:
    """Replace one attention block; `shared` is cosines, sines and the additive mask."""
    cos, sin, mask = shared
    layer, prefix = attention.layer, f"layers.{attention.layer}.attention"
    query = split_heads(graph, attention.query, (shape.tokens, facts.n_heads, facts.head_dim), f"{prefix}/query")
    sizes = (shape.tokens, facts.n_kv_heads, facts.head_dim)
    key = split_heads(graph, attention.key, sizes, f"{prefix}/key")
    value = split_heads(graph, attention.value, sizes, f"{prefix}/value")
    turned = [
        ir.node("RotaryEmbedding", [heads.outputs[0], cos, sin], name=f"{heads.name}/RotaryEmbedding")
        for heads in (query[-1], key[-1])
    ]
    past = {one.name: one for one in graph.inputs}
    present = [turned[1].outputs[0], value[-1].outputs[0]]
    caches = [
        ir.node("Concat", [past[f"past_key_values.{layer}.{kind}"], new], {"axis": 2}, name=f"{prefix}/{kind}/Concat")
        for kind, new in zip(("key", "value"), present, strict=True)
    ]
    attend = ir.node(
        "Attention",
        [turned[0].outputs[0], caches[0].outputs[0], caches[1].outputs[0], mask],
        {"scale": attention.scale},
        name=f"{prefix}/Attention",
    )
    back = ir.node("Transpose", [attend.outputs[0]], {"perm": [0, 2, 1, 3]}, name=f"{prefix}/Transpose")
    size = constant(graph, f"shape.{facts.n_heads * facts.head_dim}", (1, shape.tokens, facts.n_heads * facts.head_dim))
    merge = ir.node("Reshape", [back.outputs[0], size], name=f"{prefix}/Reshape")
    old = attention.context.producer()
    nodes = [*query, *key, *value, *turned, *caches, attend, back, merge]
    graph.insert_before(old if old is not None else graph[0], nodes)
    merge.outputs[0].type = attention.context.type
    attention.context.replace_all_uses_with(merge.outputs[0])
    for kind, new in zip(("key", "value"), present, strict=True):
        set_present(graph, f"present.{layer}.{kind}", new)


def set_present(graph: ir.Graph, name: str, new: ir.Value) -> None:
    """Make `new` the graph output `name`."""
    position, old = next((index, output) for index, output in enumerate(graph.outputs) if output.name == name)
    new.type, old.name, new.name = old.type, f"{name}.whole", name
    graph.outputs[position] = new


def split_heads(graph: ir.Graph, projection: ir.Value, sizes: tuple[int, int, int], name: str) -> list[ir.Node]:
    """Nodes whose last gives the heads [1, heads, n, head_dim] of a projection."""
    tokens, heads, size = sizes
    apart = constant(graph, f"shape.{heads}x{size}", (1, tokens, heads, size))
    split = ir.node("Reshape", [projection, apart], name=f"{name}/Reshape")
    norm = producer(projection, "RMSNormalization")
    if norm is not None:
        # The heads are normalised, so they are apart already, by a Reshape to a computed shape. They are normalised
        # as one list of vectors: with two dimensions above 1 in front of the last, the HTP returns other numbers.
        before = producer(norm.inputs[0], "Reshape")
        if before is not None:
            before.replace_input_with(1, constant(graph, f"shape.{heads}x{size}.list", (1, tokens * heads, size)))
            before.outputs[0].shape = norm.outputs[0].shape = None
    return [split, ir.node("Transpose", [split.outputs[0]], {"perm": [0, 2, 1, 3]}, name=f"{name}/Transpose")]


def constant(graph: ir.Graph, name: str, sizes: Sequence[int]) -> ir.Value:
    """A shape as an initializer, written once."""
    known = graph.initializers.get(name)
    return known if known is not None else add_initializer(graph, name, np.array(sizes, np.int64))


def add_scalar(graph: ir.Graph, name: str, number: np.generic) -> ir.Value:
    """Register a number without dimensions as the initializer `name`."""
    tensor = ir.tensor(np.array(number), name=name)
    value = ir.Value(name=name, shape=ir.Shape(()), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def lower_embedding(lowering: Lowering) -> None:
    """Gather rows of the quantized table, then dequantize them: the HTP has no GatherBlockQuantized.

    It gathers 8-bit numbers only between a DequantizeLinear and a QuantizeLinear, here with a scale of 1, which keeps
    the codes as they are. The table is the head's own blocks where the two are tied.
    """
    graph = lowering.graph
    for gather in list(graph):
        source = is_quantized(gather.inputs[0]) if gather.op_type == "Gather" else None
        if source is None:
            continue
        name, weight, ids = weight_name(source), read_weight(source), gather.inputs[1]
        layout, (codes, *_) = weight_blocks(lowering, name, source)
        middle = 1 << (layout.bits - 1) if layout.symmetric else 0
        unit = [
            add_scalar(graph, f"{name}.unit", np.float32(1)),
            add_scalar(graph, f"{name}.middle", np.uint8(middle)),
        ]
        rows = constant(graph, f"{name}.table_shape", weight.codes.shape)
        table = ir.node("Reshape", [codes, rows], name=f"{name}/Reshape")
        steps = [table, ir.node("DequantizeLinear", [table.outputs[0], *unit], name=f"{name}/table")]
        steps.append(ir.node("Gather", [steps[-1].outputs[0], ids], {"axis": 0}, name=f"{name}/rows"))
        for op_type in ("QuantizeLinear", "DequantizeLinear"):
            steps.append(ir.node(op_type, [steps[-1].outputs[0], *unit], name=f"{name}/rows/{op_type}"))
        columns = [("Sub", weight.zero_points), ("Mul", weight.scales)]
        for op_type, column in columns:
            if column is not None:
                stored = add_initializer(graph, f"{name}.{op_type}.rows", column.astype(np.float32))
                own = ir.node("Gather", [stored, ids], {"axis": 0}, name=f"{name}/{op_type}/rows")
                steps += [own, ir.node(op_type, [steps[-1].outputs[0], own.outputs[0]], name=f"{name}/{op_type}")]
        ir.convenience.replace_nodes_and_values(
            graph, gather, [gather], steps, list(gather.outputs), list(steps[-1].outputs)
        )


def fix_shapes(hub: ir.Model, shape: StaticShape) -> None:
    """Write the fixed lengths where the hub has symbols, and infer the rest."""
    lengths = {"batch_size": 1, "sequence_length": shape.tokens}
    for node in hub.graph:
        for value in node.outputs:
            if value.shape is not None:
                sizes = [size if isinstance(size, int) else lengths.get(size.value or "") for size in value.shape]
                value.shape = None if None in sizes else ir.Shape([size for size in sizes if size is not None])
    common.ShapeInferencePass()(hub)
