"""The rotary position embedding of a GGUF file, as the `rope_scaling` of config.json."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.gguf_fields import optional
from export.gguf_reader import GgufModel
from targets.errors import InputRefused

FACTORS = "rope_freqs.weight"
# The constants of every published Llama 3.1 to 3.3; only `factor` differs among them.
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def rope_scaling(gguf: GgufModel, prefix: str, theta: float, head_dim: int) -> dict[str, Any] | None:
    """The scaling that the file asks for, None for plain rotary embedding.

    Raises:
        InputRefused: a scaling that we cannot reproduce exactly.
    """
    kind = optional(gguf, f"{prefix}.rope.scaling.type", str) or "none"
    factors = next((tensor for tensor in gguf.tensors if tensor.name == FACTORS), None)
    if kind not in {"none", "linear"} or (kind == "linear" and factors is not None):
        raise InputRefused(
            f"{gguf.path} scales its rotary embedding by '{kind}'", "known: none, linear, llama3; or give the folder"
        )
    if factors is not None:
        if factors.ggml_type != "F32" or factors.shape != (head_dim // 2,):
            raise InputRefused(f"{gguf.path} has unknown rotary factors", "give the model's Hugging Face folder")
        return _llama3(gguf, gguf.data(factors).reshape(-1).view(np.float32), theta, head_dim)
    # An older field of the same meaning.
    factor = optional(gguf, f"{prefix}.rope.scaling.factor", float)
    factor = optional(gguf, f"{prefix}.rope.scale_linear", float) if factor is None else factor
    if kind == "none" and factor in {None, 0.0, 1.0}:
        return None
    if kind == "none" or factor is None or not factor >= 1.0:
        raise InputRefused(f"{gguf.path} scales its rotary embedding by {factor}", "give the Hugging Face folder")
    return {"rope_type": "linear", "factor": factor}


def llama3_factors(factor: float, theta: float, head_dim: int) -> NDArray[np.float64]:
    """What Llama 3 divides each rotary frequency by, float64 [head_dim / 2]."""
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    turns = LLAMA3["original_max_position_embeddings"] / wavelengths
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return np.asarray(1 / ((1 - smooth) / factor + smooth), np.float64)


def _llama3(gguf: GgufModel, factors: NDArray[np.float32], theta: float, head_dim: int) -> dict[str, Any]:
    """The config of which `factors` are the result.

    Raises:
        InputRefused: they are not the result of any published config.
    """
    factor = round(float(factors.max()), 3) if np.isfinite(factors).all() else 0.0
    if factor < 1.0 or not np.allclose(llama3_factors(factor, theta, head_dim), factors, rtol=1e-4):
        raise InputRefused(
            f"{gguf.path} has rotary factors that are not those of Llama 3", "give the model's Hugging Face folder"
        )
    return {"rope_type": "llama3", "factor": factor, **LLAMA3}
