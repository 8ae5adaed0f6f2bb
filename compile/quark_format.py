"""AMD Quark's packed uint4 layout, and back: what a Quark checkpoint holds of one linear weight.

The weight is transposed to [in, out] and eight consecutive outputs share an int32, in the order of `ORDER`; so do their
zero points. The layout is that of Quark 0.13's `Pack_4_bits` with `pack_method` "reorder"; the tests hold it against a
checkpoint that Quark wrote.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantize.weight import QuantizedWeight
from targets.errors import StageFailed

# Nibble n of an int32, counted from the lowest, holds output ORDER[n] of its eight.
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
PER_WORD = len(ORDER)
BITS = 4
MIDDLE = 1 << (BITS - 1)

WEIGHT, SCALE, ZERO_POINT = "weight", "weight_scale", "weight_zero_point"


@dataclass(frozen=True)
class PackedWeight:
    """A linear weight as Quark stores it.

    Attributes:
        codes: [in, ceil(out / 8)] int32.
        scales: [groups, out] float32.
        zero_points: [groups, ceil(out / 8)] int32.
    """

    codes: NDArray[np.int32]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.int32]


def pack_weight(weight: QuantizedWeight, name: str) -> PackedWeight:
    """Lay out a 4-bit weight; a symmetric one gets the middle of the code range as its zero point.

    Raises:
        StageFailed: the weight is not of 4 bits.
    """
    if weight.bits != BITS:
        raise StageFailed(
            f"{name} has {weight.bits}-bit codes, and Quark's uint4 checkpoints hold 4-bit ones",
            "choose a scheme that starts with w4-asym",
        )
    symmetric = weight.zero_points is None
    zero_points = np.full(weight.scales.shape, MIDDLE, np.int16) if weight.zero_points is None else weight.zero_points
    return PackedWeight(
        codes=pack((weight.stored_codes() + (MIDDLE if symmetric else 0)).T),
        scales=np.ascontiguousarray(weight.scales.T),
        zero_points=pack(zero_points.T),
    )


def unpack_weight(packed: PackedWeight) -> QuantizedWeight:
    """Read a weight back, its zero points as they are stored."""
    out_channels = packed.scales.shape[1]
    zero_points = np.ascontiguousarray(unpack(packed.zero_points, out_channels).T)
    stored = unpack(packed.codes, out_channels).T
    codes = stored - np.repeat(zero_points, stored.shape[1] // zero_points.shape[1], axis=1)
    return QuantizedWeight(codes, np.ascontiguousarray(packed.scales.T), zero_points, BITS)


def pack(values: NDArray[np.int16]) -> NDArray[np.int32]:
    """Pack [rows, columns] of 0..15 along the columns, a last incomplete word filled with zeros."""
    rows, columns = values.shape
    padded = np.zeros((rows, -(-columns // PER_WORD) * PER_WORD), np.uint32)
    padded[:, :columns] = values
    nibbles = padded.reshape(rows, -1, PER_WORD)[:, :, ORDER]
    shifts = np.arange(PER_WORD, dtype=np.uint32) * BITS
    words = np.bitwise_or.reduce(nibbles << shifts, axis=-1)
    return np.ascontiguousarray(words, np.uint32).view(np.int32)


def unpack(words: NDArray[np.int32], columns: int) -> NDArray[np.int16]:
    """Undo `pack`: [rows, columns] of 0..15."""
    shifts = np.arange(PER_WORD, dtype=np.uint32) * BITS
    nibbles = (np.ascontiguousarray(words).view(np.uint32)[:, :, None] >> shifts) & 15
    values = np.empty_like(nibbles)
    values[:, :, ORDER] = nibbles
    return values.reshape(words.shape[0], -1)[:, :columns].astype(np.int16)
