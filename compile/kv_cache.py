"""Store the KV cache of GroupQueryAttention in 8 bits: per-channel scales, fixed when the package is made.

ONNX Runtime's CPU kernel rounds each key and value to int8 as it is written and multiplies by the scale as it is read.
Keys are stored after the rotary embedding, which turns the features (i, i + head_dim / 2) of a key as a pair: a feature
is as large as its pair is long at some position, so both get the pair's length and hold at every position, also beyond
the text that was looked at.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.parity import HubSession
from quantize.calibration import prompts
from quantize.hub_weights import add_initializer
from quantize.quantizer import QuantizedModel

LEVELS = 127
# Text never shows the largest key there is; too wide a scale costs far less than a clipped key.
MARGIN = 1.25
LONGEST = 512
SEED = 20261122

# Inputs of GroupQueryAttention.
PAST_KEY, PAST_VALUE, KEY_SCALE, VALUE_SCALE, INPUTS = 3, 4, 12, 13, 14


def cache_scales(quantized: QuantizedModel) -> dict[str, NDArray[np.float32]]:
    """The scale of every cache by input name (`past_key_values.<layer>.key`), each [1, kv_heads, 1, head_dim].

    From the largest magnitude of each channel while the quantized model, in float32, reads the calibration prompts and
    as many tokens drawn from the whole vocabulary, so that a model of another language is looked at too.
    """
    session = HubSession(quantized.graph, quantized.facts)
    largest: dict[str, NDArray[np.float32]] = {}
    for tokens in calibration_tokens(quantized):
        session.reset()
        session.step(tokens[None])
        for name, cache in session.past.items():
            seen = reach(cache, name.endswith(".key"))
            largest[name] = np.maximum(largest[name], seen) if name in largest else seen
    floor = np.float32(np.finfo(np.float32).tiny)
    return {name: np.maximum(most * np.float32(MARGIN / LEVELS), floor) for name, most in largest.items()}


def calibration_tokens(quantized: QuantizedModel) -> Iterator[NDArray[np.int64]]:
    """Two sequences [n]: the calibration prompts, and seeded tokens of the whole vocabulary."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(quantized.folder / "tokenizer.json"))
    text = "\n\n".join(prompt["text"] for prompt in prompts())
    length = min(LONGEST, quantized.facts.max_positions)
    yield np.array(tokenizer.encode(text, add_special_tokens=False).ids[:length], np.int64)
    yield np.random.default_rng(SEED).integers(0, quantized.facts.vocab_size, length)


def reach(cache: NDArray[np.float32], is_key: bool) -> NDArray[np.float32]:
    """The largest magnitude of each channel of a cache [1, kv_heads, n, head_dim], as [1, kv_heads, 1, head_dim]."""
    if is_key:
        first, second = np.split(cache, 2, axis=-1)
        length = np.hypot(first, second)
        cache = np.concatenate([length, length], axis=-1)
    return np.asarray(np.abs(cache).max(axis=2, keepdims=True), np.float32)


def quantize_cache(model: ir.Model, scales: Mapping[str, NDArray[Any]]) -> None:
    """Make every GroupQueryAttention of a lowered model keep its cache in int8; rewrites `model`."""
    for node in [node for node in model.graph if node.op_type == "GroupQueryAttention"]:
        caches = [node.inputs[PAST_KEY], node.inputs[PAST_VALUE]]
        node.resize_inputs(INPUTS)
        for position, cache in zip((KEY_SCALE, VALUE_SCALE), caches, strict=True):
            name = str(cache.name if cache is not None else "")
            node.replace_input_with(position, add_initializer(model.graph, f"{name}.scale", scales[name]))
        for kind in ("k_quant_type", "v_quant_type"):
            node.attributes[kind] = ir.AttrString(kind, "PER_CHANNEL")
        node.attributes["kv_cache_bit_width"] = ir.AttrInt64("kv_cache_bit_width", 8)
        for value in (*caches, *node.outputs[1:]):
            if value is not None:
                value.dtype = ir.DataType.INT8
