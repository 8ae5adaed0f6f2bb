"""Rotary angles: the inverse frequencies of a configuration, where they are the same at every length.

Formulas: RoFormer (arXiv 2104.09864), section 3.4.2; the linear scaling divides positions by a factor (arXiv
2306.15595); Llama 3's blends the two by wavelength (its reference implementation, `apply_scaling`).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

DEFAULT_THETA = 10000.0


def inverse_frequencies(config: dict[str, Any], head_dim: int) -> NDArray[np.float32] | None:
    """[head_dim / 2] radians per position, or None for a scaling that is not written here."""
    theta = float(config.get("rope_theta") or DEFAULT_THETA)
    exponents: NDArray[np.float32] = np.arange(0, head_dim, 2, dtype=np.int64).astype(np.float32) / np.float32(head_dim)
    plain = np.asarray(1 / np.power(np.float32(theta), exponents), np.float32)
    scaling = config.get("rope_scaling")
    if scaling is None:
        return plain
    match scaling.get("rope_type", scaling.get("type")):
        case "default":
            return plain
        case "linear":
            return np.asarray(plain / np.float32(scaling["factor"]), np.float32)
        case "llama3":
            return blend(plain, scaling, int(config["max_position_embeddings"]))
    return None


def blend(plain: NDArray[np.float32], scaling: dict[str, Any], longest: int) -> NDArray[np.float32]:
    """Llama 3's frequencies: short waves stay, long ones are slowed by `factor`, those between are mixed."""
    context = float(scaling.get("original_max_position_embeddings", longest))
    factor, low, high = (float(scaling[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    waves = 2 * math.pi / plain
    share = (context / waves - low) / (high - low)
    mixed = (1 - share) * plain / factor + share * plain
    scaled = np.where(waves > context / low, plain / factor, np.where(waves < context / high, plain, mixed))
    return scaled.astype(np.float32)
