"""Recognise one layer's decomposed attention in the hub, from its Softmax outward."""

import re
from dataclasses import dataclass

import onnx_ir as ir

from export.hub_passes import producer, scalar
from targets.errors import StageFailed


@dataclass(frozen=True)
class Attention:
    """One attention of the hub.

    Attributes:
        layer: index, from the name of its KV cache.
        query: [batch, sequence, heads * head_dim] before the split into heads, or [batch, sequence, heads, head_dim]
            where each head is normalised.
        key: [batch, sequence, kv_heads * head_dim].
        value: as `key`.
        context: [batch, sequence, heads * head_dim], what the output projection reads.
        cos: rotary cosines [batch, 1, sequence, head_dim], a function of `position_ids`.
        sin: as `cos`.
        scale: factor on the scores before the softmax.
    """

    layer: int
    query: ir.Value
    key: ir.Value
    value: ir.Value
    context: ir.Value
    cos: ir.Value
    sin: ir.Value
    scale: float


def find_attentions(hub: ir.Model) -> list[Attention]:
    """All attentions in layer order.

    Raises:
        StageFailed: a Softmax that is not the attention the hub's dialect defines.
    """
    found = [match_attention(node) for node in hub.graph if node.op_type == "Softmax"]
    if not found:
        raise StageFailed("the hub has no attention", "export the model again")
    if len({(attention.cos, attention.sin) for attention in found}) > 1:
        raise StageFailed("the layers of the hub rotate by different angles", "build for OpenVINO only")
    return sorted(found, key=lambda attention: attention.layer)


def match_attention(softmax: ir.Node) -> Attention:
    """The attention around `softmax`."""
    masked = expect(softmax, softmax.inputs[0], "Add")
    scaled = expect(softmax, masked.inputs[0], "Mul")
    scores = expect(softmax, scaled.inputs[0], "MatMul")
    factor = scalar(scaled.inputs[1])
    if factor is None:
        raise unknown(softmax, "a constant scale")
    rotated_query = expect(softmax, scores.inputs[0], "Add")
    query_heads, cos, sin = match_rotary(softmax, rotated_query)
    key_cache = cache_of(softmax, expect(softmax, scores.inputs[1], "Transpose").inputs[0])
    weighted = consumer(softmax, softmax.outputs[0], "MatMul")
    value_cache = cache_of(softmax, weighted.inputs[1])
    key_heads, *key_rotation = match_rotary(softmax, expect(softmax, key_cache.inputs[1], "Add"))
    if key_rotation != [cos, sin]:
        raise unknown(softmax, "rotation of queries and keys by the same angles")
    merged = consumer(softmax, consumer(softmax, weighted.outputs[0], "Transpose").outputs[0], "Reshape")
    return Attention(
        layer=layer_of(softmax, key_cache.outputs[0]),
        query=split_heads(softmax, query_heads),
        key=split_heads(softmax, key_heads),
        value=split_heads(softmax, value_cache.inputs[1]),
        context=merged.outputs[0],
        cos=cos,
        sin=sin,
        scale=factor,
    )


def cache_of(softmax: ir.Node, heads: ir.Value | None) -> ir.Node:
    """The Concat that makes a cache, looking through what repeats its heads for the queries that share them."""
    repeated = producer(heads, "Reshape")
    return follow(softmax, heads, *(("Reshape", "Expand", "Unsqueeze") if repeated else ()), "Concat")


def match_rotary(softmax: ir.Node, rotated: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value]:
    """(heads, cos, sin) of `heads * cos + rotate_half(heads) * sin`."""
    straight, turned = expect(softmax, rotated.inputs[0], "Mul"), expect(softmax, rotated.inputs[1], "Mul")
    heads, cos, sin = straight.inputs[0], straight.inputs[1], turned.inputs[1]
    expect(softmax, turned.inputs[0], "Concat")
    if heads is None or cos is None or sin is None:
        raise unknown(softmax, "rotary position embedding")
    return heads, cos, sin


def split_heads(softmax: ir.Node, heads: ir.Value | None) -> ir.Value:
    """What a Reshape and a Transpose split into `heads` [batch, heads, sequence, head_dim], normalised in between."""
    split = expect(softmax, heads, "Transpose").inputs[0]
    if split is not None and producer(split, "RMSNormalization") is not None:
        return split
    projection = expect(softmax, split, "Reshape").inputs[0]
    if projection is None:
        raise unknown(softmax, "a projection")
    return projection


def layer_of(softmax: ir.Node, cache: ir.Value) -> int:
    """The layer index in the name `present.<i>.key`."""
    found = re.fullmatch(r"present\.(\d+)\.key", cache.name or "")
    if found is None:
        raise unknown(softmax, "a KV cache called present.<layer>.key")
    return int(found[1])


def follow(softmax: ir.Node, value: ir.Value | None, *op_types: str) -> ir.Node:
    """The last node of a chain of producers of these types, each reached through its predecessor's first input."""
    node = expect(softmax, value, op_types[0])
    for op_type in op_types[1:]:
        node = expect(softmax, node.inputs[0], op_type)
    return node


def expect(softmax: ir.Node, value: ir.Value | None, op_type: str) -> ir.Node:
    """The producer of `value`, which must be an `op_type`."""
    node = producer(value, op_type)
    if node is None:
        raise unknown(softmax, op_type)
    return node


def consumer(softmax: ir.Node, value: ir.Value, op_type: str) -> ir.Node:
    """The one reader of `value`, which must be an `op_type`."""
    readers = [user for user, _ in value.uses()]
    if len(readers) != 1 or readers[0].op_type != op_type:
        raise unknown(softmax, op_type)
    return readers[0]


def unknown(softmax: ir.Node, wanted: str) -> StageFailed:
    """The error for an attention this file does not know."""
    return StageFailed(
        f"the attention around {softmax.name} is not the one the hub's dialect defines: no {wanted} where one belongs",
        "build for OpenVINO only, and report this model",
    )
