"""A decoder of the Llama family in plain NumPy, to hold the hub against with the model's own weights.

Written from the papers, not from the graph: RMSNorm (arXiv 1910.07467), rotary embedding as complex rotation (arXiv
2104.09864), grouped-query attention (arXiv 2305.13245), SwiGLU (arXiv 2002.05202). Tests hold it against transformers.
Weights are read layer by layer and let go.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.architectures import dimensions_of
from export.model import Model
from export.parity import HubSession, Parity, compare
from export.rope import inverse_frequencies
from export.tensor_map import TensorPlace
from targets.errors import StageFailed

Array = NDArray[np.float32]
HEAD_ROWS = 8192
DEFAULT_EPSILON = 1e-6


class ReferenceDecoder:
    """Some layers of a model between its embedding and its head; one sequence, the cache carried along."""

    def __init__(self, config: dict[str, Any], places: Mapping[str, TensorPlace], layers: Sequence[int]) -> None:
        """`layers` are the stored layers that are run, in order.

        Raises:
            StageFailed: a rotary scaling that is not written here.
        """
        self.places = places
        self.layers = layers
        self.sizes = dimensions_of(config, "config.json")
        self.epsilon = np.float32(config.get("rms_norm_eps", DEFAULT_EPSILON))
        frequencies = inverse_frequencies(config, self.sizes.head_dim)
        if frequencies is None:
            raise StageFailed("this rotary scaling has no reference", "export through optimum")
        self.frequencies = frequencies
        self.cache: dict[int, tuple[Array, Array]] = {}
        self.length = 0

    def step(self, tokens: NDArray[np.int64]) -> Array:
        """Logits [1, n, vocab] of the next `n` tokens [1, n]."""
        hidden = self.places["model.embed_tokens.weight"].read_rows(tokens[0])
        positions = np.arange(self.length, self.length + tokens.shape[1])
        turns = np.exp(1j * (positions[:, None].astype(np.float32) * self.frequencies)).astype(np.complex64)
        self.length += tokens.shape[1]
        for layer in self.layers:
            path = f"model.layers.{layer}"
            normed = self.norm(hidden, f"{path}.input_layernorm.weight")
            hidden = hidden + self.attention(normed, layer, f"{path}.self_attn", turns)
            normed = self.norm(hidden, f"{path}.post_attention_layernorm.weight")
            hidden = hidden + self.mlp(normed, f"{path}.mlp")
        hidden = self.norm(hidden, "model.norm.weight")
        return np.concatenate([hidden @ rows.T for rows in self.head()], axis=-1)[None]

    def norm(self, hidden: Array, name: str) -> Array:
        """RMSNorm over the last axis."""
        mean = np.mean(np.square(hidden), axis=-1, keepdims=True, dtype=np.float32)
        return np.asarray(hidden / np.sqrt(mean + self.epsilon) * self.places[name].read(), np.float32)

    def linear(self, hidden: Array, path: str) -> Array:
        """A projection, with its bias where there is one."""
        result = hidden @ self.places[f"{path}.weight"].read().T
        bias = self.places.get(f"{path}.bias")
        return result if bias is None else result + bias.read()

    def mlp(self, hidden: Array, path: str) -> Array:
        """SwiGLU."""
        gate = self.linear(hidden, f"{path}.gate_proj")
        gate = gate / (1 + np.exp(-gate))
        return self.linear(gate * self.linear(hidden, f"{path}.up_proj"), f"{path}.down_proj")

    def attention(self, hidden: Array, layer: int, path: str, turns: NDArray[np.complex64]) -> Array:
        """Every query head over the cached heads of its group."""
        query, key, value = (self.heads(hidden, path, kind) for kind in "qkv")
        query, key = rotate(query, turns), rotate(key, turns)
        if layer in self.cache:
            old_key, old_value = self.cache[layer]
            key, value = np.concatenate([old_key, key], axis=1), np.concatenate([old_value, value], axis=1)
        self.cache[layer] = key, value
        group = self.sizes.n_heads // self.sizes.n_kv_heads
        scores = query @ np.repeat(key, group, axis=0).swapaxes(1, 2) / np.sqrt(np.float32(self.sizes.head_dim))
        ahead = np.arange(key.shape[1]) > np.arange(key.shape[1] - len(hidden), key.shape[1])[:, None]
        shares = np.exp(np.where(ahead, -np.inf, scores - scores.max(-1, keepdims=True))).astype(np.float32)
        shares /= shares.sum(-1, keepdims=True)
        context = (shares @ np.repeat(value, group, axis=0)).swapaxes(0, 1)
        return self.linear(context.reshape(len(hidden), -1), f"{path}.o_proj")

    def heads(self, hidden: Array, path: str, kind: str) -> Array:
        """A projection as [heads, n, head_dim], normalised per head where the checkpoint has a norm for it."""
        heads = self.linear(hidden, f"{path}.{kind}_proj").reshape(len(hidden), -1, self.sizes.head_dim)
        norm = f"{path}.{kind}_norm.weight"
        return (self.norm(heads, norm) if norm in self.places else heads).swapaxes(0, 1)

    def head(self) -> Iterator[Array]:
        """The head's rows [some, hidden], some at a time."""
        name = "model.embed_tokens.weight" if self.sizes.tied_embeddings else "lm_head.weight"
        for start in range(0, self.sizes.vocab_size, HEAD_ROWS):
            yield self.places[name].read_range(start, min(start + HEAD_ROWS, self.sizes.vocab_size))


def rotate(heads: Array, turns: NDArray[np.complex64]) -> Array:
    """Turn the pairs (i, i + head_dim / 2) of heads [heads, n, head_dim] by the angles of their positions."""
    real, imaginary = np.split(heads, 2, axis=-1)
    turned = (real + 1j * imaginary) * turns
    return np.concatenate([turned.real, turned.imag], axis=-1).astype(np.float32)


def check_layers(config: dict[str, Any], places: Mapping[str, TensorPlace], model: Model) -> Parity:
    """Compare a hub of the first and the last layer with the reference, on the model's own weights.

    Every layer is written by the same code; what can differ from model to model is in these, the embedding and the
    head.

    Raises:
        StageFailed: the logits differ.
    """
    import onnx_ir as ir

    from export.native_hub import native_hub

    layers = tuple(sorted({0, model.n_layers - 1}))
    graph = ir.to_proto(native_hub(config, places, layers)).SerializeToString()
    hub = HubSession(graph, model.facts, model.folder, lean=True)
    return compare(hub, ReferenceDecoder(config, places, layers), model.vocab_size, "NumPy", layers)
