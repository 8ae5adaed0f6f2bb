"""Round weights to the nearest code of a scheme's grid, one at a time, a few rows at a time.

The arithmetic is NNCF's for data-free compression (`nncf.compress_weights`), operation by operation in float32, so that
the numbers are the same bit for bit; a test holds the two against each other. NNCF itself takes seconds to import and
copies the whole model it is given.
"""

import numpy as np
from numpy.typing import NDArray

from quantize.scheme import Scheme
from quantize.weight import QuantizedWeight
from targets.legality import CHANNEL_WISE

Array = NDArray[np.float32]

# Numbers rounded at a time: small enough to stay in a core's cache through every pass.
BLOCK = 1 << 18
EPSILON = np.finfo(np.float32).eps


def quantize_weight(weight: Array, scheme: Scheme) -> QuantizedWeight:
    """Round weight [out, in] float32 to the scheme's grid; the group size must divide `in`."""
    out_channels, in_channels = weight.shape
    size = in_channels if scheme.group_size == CHANNEL_WISE else scheme.group_size
    groups = in_channels // size
    codes = np.empty((out_channels, groups, size), np.int16)
    scales = np.empty((out_channels, groups), np.float32)
    zero_points = None if scheme.symmetric else np.empty((out_channels, groups), np.int16)
    rows = max(1, BLOCK // in_channels)
    for start in range(0, out_channels, rows):
        part = slice(start, start + rows)
        values = weight[part].reshape(-1, groups, size)
        if zero_points is None:
            scales[part], codes[part] = round_symmetric(values, scheme.bits)
        else:
            scales[part], zero_points[part], codes[part] = round_asymmetric(values, scheme.bits)
    return QuantizedWeight(codes.reshape(weight.shape), scales, zero_points, scheme.bits)


def round_symmetric(values: Array, bits: int) -> tuple[Array, Array]:
    """(scales [out, groups], codes [out, groups, size]) of values [out, groups, size].

    The end of the weights that is farther from zero gets the one code that only the negative side has: the scale's
    sign says which end that is.
    """
    half = 1 << (bits - 1)
    lowest, highest = np.abs(values.min(axis=-1)), values.max(axis=-1)
    scales = never_zero(np.where(lowest >= highest, lowest, -highest) / np.float32(half))
    codes = values / scales[..., None]
    np.round(codes, out=codes)
    return scales, np.clip(codes, -half, half - 1, out=codes)


def round_asymmetric(values: Array, bits: int) -> tuple[Array, Array, Array]:
    """(scales [out, groups], zero points [out, groups], codes minus those [out, groups, size])."""
    levels = (1 << bits) - 1
    lowest = np.minimum(values.min(axis=-1), np.float32(0))
    highest = np.maximum(values.max(axis=-1), np.float32(0))
    scales = never_zero((highest - lowest) / np.float32(levels))
    zero_points = np.clip(-np.round(lowest / scales), 0, levels)
    codes = values / scales[..., None]
    codes += zero_points[..., None]
    np.round(codes, out=codes)
    np.clip(codes, 0, levels, out=codes)
    codes -= zero_points[..., None]
    return scales, zero_points, codes


def never_zero(scales: Array) -> Array:
    """Scales of which none is so small that a division by it overflows."""
    return np.where(np.abs(scales) < EPSILON, EPSILON, scales)
