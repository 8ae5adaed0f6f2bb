"""Quantized weights in the layout of ONNX Runtime's `MatMulNBits`, and back."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantize.weight import QuantizedWeight

# MatMulNBits wants one scale per block of at most 256 inputs, so a channel's one scale is written into each block.
# Large blocks mean fewer scales to read; 64 was the fastest of 32, 64, 128 and 256 here for both code widths.
CHANNEL_WISE_BLOCK = 64


@dataclass(frozen=True)
class Blocks:
    """A weight as `MatMulNBits` stores it.

    Attributes:
        codes: [out, blocks, block_size * bits / 8] uint8, low nibble first.
        scales: [out, blocks] float32.
        zero_points: [out, ceil(blocks * bits / 8)] uint8, low nibble first; None when symmetric.
        bits: 4 or 8.
        block_size: inputs per block.
        in_channels: inputs; the last block may be padded.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.uint8] | None
    bits: int
    block_size: int
    in_channels: int


def to_blocks(weight: QuantizedWeight) -> Blocks:
    """Lay out `weight`; without zero points the kernel takes half the code range as zero."""
    out_channels, in_channels = weight.codes.shape
    channel_wise = weight.scales.shape[1] == 1
    block_size = CHANNEL_WISE_BLOCK if channel_wise else weight.group_size
    blocks = -(-in_channels // block_size)
    middle = 1 << (weight.bits - 1)
    unsigned = weight.stored_codes() + (middle if weight.zero_points is None else 0)
    padded = np.full((out_channels, blocks * block_size), middle, np.uint8)
    padded[:, :in_channels] = unsigned
    repeat = blocks if channel_wise else 1
    zero_points = None if weight.zero_points is None else np.repeat(weight.zero_points, repeat, axis=1).astype(np.uint8)
    return Blocks(
        codes=pack(padded, weight.bits).reshape(out_channels, blocks, -1),
        scales=np.repeat(weight.scales, repeat, axis=1),
        zero_points=None if zero_points is None else pack(zero_points, weight.bits),
        bits=weight.bits,
        block_size=block_size,
        in_channels=in_channels,
    )


def from_blocks(blocks: Blocks) -> QuantizedWeight:
    """Read a weight back out of its blocks."""
    out_channels, count = blocks.scales.shape
    unsigned = unpack(blocks.codes.reshape(out_channels, -1), blocks.bits)[:, : blocks.in_channels].astype(np.int16)
    if blocks.zero_points is None:
        return QuantizedWeight(unsigned - (1 << (blocks.bits - 1)), blocks.scales, None, blocks.bits)
    zero_points = unpack(blocks.zero_points, blocks.bits)[:, :count].astype(np.int16)
    spread = np.repeat(zero_points, blocks.block_size, axis=1)[:, : blocks.in_channels]
    return QuantizedWeight(unsigned - spread, blocks.scales, zero_points, blocks.bits)


def concatenate(parts: list[Blocks]) -> Blocks:
    """Several weights over the same inputs as one, outputs in order.

    Every part must have the same bits, block size, inputs and symmetry.
    """
    first = parts[0]
    zero_points = [part.zero_points for part in parts if part.zero_points is not None]
    return Blocks(
        codes=np.concatenate([part.codes for part in parts]),
        scales=np.concatenate([part.scales for part in parts]),
        zero_points=np.concatenate(zero_points) if zero_points else None,
        bits=first.bits,
        block_size=first.block_size,
        in_channels=first.in_channels,
    )


def pack(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack the last axis, two 4-bit values to a byte, low nibble first; 8-bit values stay as they are."""
    if bits == 8:
        return values
    if values.shape[1] % 2:
        values = np.pad(values, ((0, 0), (0, 1)))
    return values[:, 0::2] | (values[:, 1::2] << 4)


def unpack(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Undo `pack`; an odd count comes back with one value too many."""
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(packed.shape[0], -1)
