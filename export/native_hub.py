"""Write the hub's graph from a configuration: the decoders of `ARCHITECTURES`, in the hub's dialect, without PyTorch.

The weights are not copied: the graph points into the model's safetensors files. What it computes is what transformers'
classes of the same names compute in float32 with attention spelled out; tests hold the two against each other for every
architecture.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from export.architectures import Dimensions, dimensions_of
from export.graph_writer import GraphWriter
from export.hub_passes import FINITE_MASK, HUB_OPSET
from export.rope import inverse_frequencies
from export.tensor_map import TensorPlace

# onnx 1.18, the first with opset 23.
IR_VERSION = 11
# What transformers takes where config.json is silent.
DEFAULT_EPSILON = 1e-6
TO_THE_END = np.iinfo(np.int64).max

BATCH, SEQUENCE, PAST = "batch_size", "sequence_length", "past_sequence_length"
TOTAL = f"{PAST} + {SEQUENCE}"


@dataclass(frozen=True)
class Shared:
    """What every layer reads: the mask [batch, 1, queries, keys] added to the scores, and the rotary tables
    [batch, 1, queries, head_dim].
    """

    mask: ir.Value
    cos: ir.Value
    sin: ir.Value


class DecoderWriter(GraphWriter):
    """A decoder, layer by layer."""

    def __init__(self, config: dict[str, Any], places: Mapping[str, TensorPlace]) -> None:
        super().__init__(places)
        self.sizes: Dimensions = dimensions_of(config, "config.json")
        self.config = config
        self.epsilon = float(config.get("rms_norm_eps", DEFAULT_EPSILON))
        self.outputs: list[ir.Value] = []

    def inputs(self, layers: int) -> list[ir.Value]:
        """Tokens, mask, positions and the cache of every layer."""
        cache: list[str | int] = [BATCH, self.sizes.n_kv_heads, PAST, self.sizes.head_dim]
        return [
            graph_value("input_ids", ir.DataType.INT64, [BATCH, SEQUENCE]),
            graph_value("attention_mask", ir.DataType.INT64, [BATCH, TOTAL]),
            graph_value("position_ids", ir.DataType.INT64, [BATCH, SEQUENCE]),
            *(
                graph_value(f"past_key_values.{layer}.{kind}", ir.DataType.FLOAT, cache)
                for layer in range(layers)
                for kind in ("key", "value")
            ),
        ]

    def mask(self, tokens: ir.Value, attention_mask: ir.Value, past: ir.Value) -> ir.Value:
        """0 where a query may look, `FINITE_MASK` where a key comes later or is padding; [batch, 1, queries, keys]."""
        name = "/model/mask"
        before = self.dimension(f"{name}/past", past, 2)
        new = self.dimension(f"{name}/new", tokens, 1)
        total = self.node(f"{name}/total/Add", "Add", [before, new])
        zero, one = self.integer(0), self.integer(1)
        queries = self.node(f"{name}/queries/Range", "Range", [before, total, one])
        keys = self.node(f"{name}/keys/Range", "Range", [zero, total, one])
        column = self.node(f"{name}/queries/Unsqueeze", "Unsqueeze", [queries, self.integers(1)])
        causal = self.node(f"{name}/LessOrEqual", "LessOrEqual", [keys, column])
        real = self.node(f"{name}/Cast", "Cast", [attention_mask], to=ir.DataType.BOOL.value)
        real = self.node(f"{name}/Unsqueeze", "Unsqueeze", [real, self.integers(1, 2)])
        visible = self.node(f"{name}/And", "And", [causal, real])
        nothing = self.constant("hub.mask.visible", np.array(0, np.float32))
        hidden = self.constant("hub.mask.hidden", np.array(FINITE_MASK, np.float32))
        added = self.node(f"{name}/Where", "Where", [visible, nothing, hidden])
        return sized(added, BATCH, 1, SEQUENCE, TOTAL)

    def dimension(self, name: str, value: ir.Value, axis: int) -> ir.Value:
        """One size of a value, [] int64."""
        shape = self.node(f"{name}/Shape", "Shape", [value])
        return self.node(f"{name}/Gather", "Gather", [shape, self.integer(axis)], axis=0)

    def rotary(self, positions: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Cosines and sines of every position's angles, each [batch, 1, queries, head_dim]."""
        name = "/model/rotary_emb"
        frequencies = inverse_frequencies(self.config, self.sizes.head_dim)
        if frequencies is None:
            raise AssertionError
        inverse = self.constant("hub.rotary.inverse_frequencies", frequencies[None, :, None])
        row = self.node(f"{name}/Unsqueeze", "Unsqueeze", [positions, self.integers(1)])
        row = self.node(f"{name}/Cast", "Cast", [row], to=ir.DataType.FLOAT.value)
        angles = self.node(f"{name}/MatMul", "MatMul", [inverse, row])
        angles = self.node(f"{name}/Transpose", "Transpose", [angles], perm=[0, 2, 1])
        angles = self.node(f"{name}/Concat", "Concat", [angles, angles], axis=-1)
        tables = [self.node(f"{name}/{kind}", kind, [angles]) for kind in ("Cos", "Sin")]
        cos, sin = (
            self.node(f"{name}/{kind}/Unsqueeze", "Unsqueeze", [table, self.integers(1)])
            for kind, table in zip(("Cos", "Sin"), tables, strict=True)
        )
        return cos, sin

    def layer(self, hidden: ir.Value, stored: int, past: Sequence[ir.Value], shared: Shared) -> ir.Value:
        """One layer on `hidden` [batch, queries, features]; its weights are those of the layer `stored`."""
        path = f"model.layers.{stored}"
        attention = self.attention(self.norm(hidden, f"{path}.input_layernorm"), f"{path}.self_attn", past, shared)
        hidden = self.node(scope(path, "Add"), "Add", [hidden, attention])
        wide = self.mlp(self.norm(hidden, f"{path}.post_attention_layernorm"), f"{path}.mlp")
        return self.node(scope(path, "Add_1"), "Add", [hidden, wide])

    def norm(self, hidden: ir.Value, path: str) -> ir.Value:
        """RMSNorm over the last axis."""
        name = scope(path, "RMSNormalization")
        weight = self.vector(f"{path}.weight")
        return self.node(name, "RMSNormalization", [hidden, weight], axis=-1, epsilon=self.epsilon)

    def linear(self, hidden: ir.Value, path: str) -> ir.Value:
        """A projection, with its bias where the checkpoint has one."""
        result = self.node(scope(path, "MatMul"), "MatMul", [hidden, self.transposed(f"{path}.weight")])
        if f"{path}.bias" in self.places:
            result = self.node(scope(path, "Add"), "Add", [self.vector(f"{path}.bias"), result])
        return result

    def mlp(self, hidden: ir.Value, path: str) -> ir.Value:
        """SwiGLU: down(silu(gate(x)) * up(x))."""
        gate = self.linear(hidden, f"{path}.gate_proj")
        share = self.node(scope(path, "act_fn/Sigmoid"), "Sigmoid", [gate])
        gate = self.node(scope(path, "act_fn/Mul"), "Mul", [gate, share])
        wide = self.node(scope(path, "Mul"), "Mul", [gate, self.linear(hidden, f"{path}.up_proj")])
        return self.linear(wide, f"{path}.down_proj")

    def attention(self, hidden: ir.Value, path: str, past: Sequence[ir.Value], shared: Shared) -> ir.Value:
        """Grouped-query attention spelled out; appends the layer's `present` values to `outputs`."""
        sizes = self.sizes
        query = self.rotate(self.heads(hidden, path, "q", sizes.n_heads), f"{path}.q", shared)
        key = self.rotate(self.heads(hidden, path, "k", sizes.n_kv_heads), f"{path}.k", shared)
        value = self.heads(hidden, path, "v", sizes.n_kv_heads)
        caches = []
        for kind, cache, new in (("key", past[0], key), ("value", past[1], value)):
            present = self.node(scope(path, f"{kind}/Concat"), "Concat", [cache, new], axis=-2)
            present.name = (cache.name or "").replace("past_key_values", "present")
            caches.append(present)
        self.outputs += caches
        keys, values = (self.spread(cache, f"{path}.{kind}") for kind, cache in zip("kv", caches, strict=True))
        keys = self.node(scope(path, "k/spread/Transpose"), "Transpose", [keys], perm=[0, 1, 3, 2])
        scores = self.node(scope(path, "MatMul"), "MatMul", [query, keys])
        scale = self.constant("hub.attention.scale", np.array(sizes.head_dim**-0.5, np.float32))
        scores = self.node(scope(path, "Mul"), "Mul", [scores, scale])
        scores = self.node(scope(path, "Add"), "Add", [scores, shared.mask])
        shares = self.node(scope(path, "Softmax"), "Softmax", [scores], axis=-1)
        context = self.node(scope(path, "MatMul_1"), "MatMul", [shares, values])
        context = self.node(scope(path, "Transpose"), "Transpose", [context], perm=[0, 2, 1, 3])
        merged = self.integers(0, 0, sizes.n_heads * sizes.head_dim)
        return self.linear(self.node(scope(path, "Reshape"), "Reshape", [context, merged]), f"{path}.o_proj")

    def heads(self, hidden: ir.Value, path: str, kind: str, count: int) -> ir.Value:
        """A projection as [batch, heads, queries, head_dim], normalised per head where the architecture does."""
        split = self.integers(0, 0, count, self.sizes.head_dim)
        projected = self.linear(hidden, f"{path}.{kind}_proj")
        heads = self.node(scope(path, f"{kind}/Reshape"), "Reshape", [projected, split])
        if f"{path}.{kind}_norm.weight" in self.places:
            heads = self.norm(heads, f"{path}.{kind}_norm")
        return self.node(scope(path, f"{kind}/Transpose"), "Transpose", [heads], perm=[0, 2, 1, 3])

    def rotate(self, heads: ir.Value, path: str, shared: Shared) -> ir.Value:
        """`heads * cos + rotate_half(heads) * sin`, the halves of a head being the pairs that turn."""
        half, axis = self.integers(self.sizes.head_dim // 2), self.integers(3)
        name = scope(path, "rotary")
        first = self.node(f"{name}/Slice", "Slice", [heads, self.integers(0), half, axis])
        second = self.node(f"{name}/Slice_1", "Slice", [heads, half, self.integers(TO_THE_END), axis])
        turned = self.node(f"{name}/Neg", "Neg", [second])
        turned = self.node(f"{name}/Concat", "Concat", [turned, first], axis=-1)
        straight = self.node(f"{name}/Mul", "Mul", [heads, shared.cos])
        turned = self.node(f"{name}/Mul_1", "Mul", [turned, shared.sin])
        return self.node(f"{name}/Add", "Add", [straight, turned])

    def spread(self, cache: ir.Value, path: str) -> ir.Value:
        """Repeat every cached head for the queries that share it; [batch, heads, keys, head_dim].

        Where every query has a head of its own nothing is repeated: of an Expand to the same size OpenVINO does not
        recognise the attention.
        """
        sizes = self.sizes
        if sizes.n_heads == sizes.n_kv_heads:
            return cache
        name = scope(path, "spread")
        wide = self.node(f"{name}/Unsqueeze", "Unsqueeze", [cache, self.integers(2)])
        groups = self.integers(1, 1, sizes.n_heads // sizes.n_kv_heads, 1, 1)
        wide = self.node(f"{name}/Expand", "Expand", [wide, groups])
        wide = self.node(f"{name}/Reshape", "Reshape", [wide, self.integers(0, sizes.n_heads, -1, sizes.head_dim)])
        return sized(wide, BATCH, sizes.n_heads, TOTAL, sizes.head_dim)


def scope(path: str, name: str) -> str:
    """A node's name below a module: `model.layers.0.mlp` becomes `/model/layers.0/mlp/...`."""
    return f"/{re.sub(r'[.](?![0-9])', '/', path)}/{name}"


def sized(value: ir.Value, *shape: str | int) -> ir.Value:
    """The float value, told a shape that cannot be inferred."""
    value.shape, value.type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
    return value


def graph_value(name: str, dtype: ir.DataType, shape: list[str | int]) -> ir.Value:
    """An input or an output of the graph."""
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


def can_write(config: dict[str, Any]) -> bool:
    """Whether this file writes the decoder; the rest of what is accepted goes through PyTorch's exporter."""
    if config.get("partial_rotary_factor") not in {None, 1}:
        return False
    return inverse_frequencies(config, dimensions_of(config, "config.json").head_dim) is not None


def native_hub(
    config: dict[str, Any], places: Mapping[str, TensorPlace], layers: Sequence[int] | None = None
) -> ir.Model:
    """The hub's graph for a checked configuration.

    Args:
        config: config.json; `can_write` says yes.
        places: the tensors of the model's folder.
        layers: which stored layers it is made of, in order; all of them by default.
    """
    writer = DecoderWriter(config, places)
    sizes = writer.sizes
    chosen = range(sizes.n_layers) if layers is None else layers
    inputs = writer.inputs(len(chosen))
    tokens, attention_mask, positions, *caches = inputs
    embedding = "model.embed_tokens.weight"
    hidden = writer.node("/model/embed_tokens/Gather", "Gather", [writer.matrix(embedding), tokens], axis=0)
    shared = Shared(writer.mask(tokens, attention_mask, caches[0]), *writer.rotary(positions))
    for place, stored in enumerate(chosen):
        hidden = writer.layer(hidden, stored, caches[2 * place : 2 * place + 2], shared)
    hidden = writer.norm(hidden, "model.norm")
    head = embedding if sizes.tied_embeddings else "lm_head.weight"
    logits = writer.node("/lm_head/MatMul", "MatMul", [hidden, writer.transposed(head)])
    logits.name = "logits"
    for present in writer.outputs:
        sized(present, BATCH, sizes.n_kv_heads, TOTAL, sizes.head_dim)
    sized(logits, BATCH, SEQUENCE, sizes.vocab_size)
    graph = ir.Graph(
        inputs,
        [logits, *writer.outputs],
        nodes=writer.nodes,
        initializers=list(writer.initializers.values()),
        opset_imports={"": HUB_OPSET},
        name="hub",
    )
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="tapeout")
    common.ShapeInferencePass()(model)
    return model
