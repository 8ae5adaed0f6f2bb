"""The weights of a GGUF file as float32 safetensors under their Hugging Face names."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.architectures import dimensions_of, expected_tensors
from export.gguf_config import architecture_of_gguf
from export.gguf_cursor import refuse
from export.gguf_reader import GgufModel
from export.gguf_rope import FACTORS
from export.gguf_types import FLOAT_TYPES, TensorInfo
from export.safetensors_writer import stream_safetensors
from targets.errors import InputRefused

BLOCK_WEIGHTS = 1 << 22
_PLACES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_weights(gguf: GgufModel, config: dict[str, Any], path: Path) -> None:
    """Dequantize every tensor into the safetensors file `path`.

    Raises:
        InputRefused: a tensor is missing, left over, of the wrong shape, or not finite.
    """
    where = str(gguf.path)
    shapes = expected_tensors(config, where)
    sources = _match(gguf, shapes)
    orders = _row_orders(gguf, config)

    def blocks(name: str) -> Iterator[NDArray[np.float32]]:
        place = name.rpartition(".")[0].rpartition(".")[2]
        return _dequantized(gguf, sources[name], orders.get(place))

    stream_safetensors(path, shapes, blocks)


def quantized_source(gguf: GgufModel) -> str | None:
    """The block type that most weights are stored in, None when that is a float type."""
    weights: Counter[str] = Counter()
    for tensor in gguf.tensors:
        weights[tensor.ggml_type] += tensor.n_weights
    commonest = max(weights, key=lambda kind: weights[kind], default="F32")
    return None if commonest in FLOAT_TYPES else commonest


def gguf_name(name: str) -> str:
    """The name that llama.cpp gives the Hugging Face tensor `name`."""
    place, _, part = name.rpartition(".")
    if place in _PLACES:
        return f"{_PLACES[place]}.{part}"
    _, _, layer, inner = place.split(".", 3)
    return f"blk.{layer}.{_PLACES[inner]}.{part}"


def _match(gguf: GgufModel, shapes: dict[str, tuple[int, ...]]) -> dict[str, TensorInfo]:
    """The GGUF tensor behind each Hugging Face name."""
    stored = {tensor.name: tensor for tensor in gguf.tensors if tensor.name != FACTORS}
    matched: dict[str, TensorInfo] = {}
    for name, shape in shapes.items():
        tensor = stored.pop(gguf_name(name), None)
        if tensor is None:
            raise refuse(gguf.path, f"it has no tensor '{gguf_name(name)}'")
        if tensor.shape != shape:
            raise refuse(gguf.path, f"'{tensor.name}' has the shape {list(tensor.shape)}, not {list(shape)}")
        matched[name] = tensor
    if stored:
        raise InputRefused(
            f"{gguf.path} has the tensor '{min(stored)}', which this architecture has no place for",
            "the model has parts that we do not build; give its Hugging Face folder, or another model",
        )
    return matched


def _row_orders(gguf: GgufModel, config: dict[str, Any]) -> dict[str, NDArray[np.intp]]:
    """Which stored row each row of the query and key projections comes from.

    llama.cpp puts the two features of a rotary pair side by side; Hugging Face keeps the halves of a head apart.
    """
    if not architecture_of_gguf(gguf).interleaved:
        return {}
    sizes = dimensions_of(config, str(gguf.path))

    def order(heads: int) -> NDArray[np.intp]:
        rows = np.arange(heads * sizes.head_dim, dtype=np.intp)
        return rows.reshape(heads, sizes.head_dim // 2, 2).swapaxes(1, 2).reshape(-1)

    return {"q_proj": order(sizes.n_heads), "k_proj": order(sizes.n_kv_heads)}


def _dequantized(gguf: GgufModel, tensor: TensorInfo, order: NDArray[np.intp] | None) -> Iterator[NDArray[np.float32]]:
    """The rows of one tensor in `order`, as float32 blocks of some 16 MiB."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    stored = gguf.data(tensor)
    step = max(1, BLOCK_WEIGHTS // tensor.shape[-1])
    for start in range(0, len(stored), step):
        rows = slice(start, start + step) if order is None else order[start : start + step]
        with np.errstate(invalid="ignore", over="ignore"):
            values = dequantize(np.ascontiguousarray(stored[rows]), GGMLQuantizationType[tensor.ggml_type])
        if not np.isfinite(values).all():
            raise refuse(gguf.path, f"'{tensor.name}' holds values that are not finite")
        yield np.asarray(values, np.float32)
