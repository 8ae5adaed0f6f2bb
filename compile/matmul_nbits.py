"""Quantized weights in the layout of ONNX Runtime's `MatMulNBits`, and back."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantize.weight import QuantizedWeight, shifted
from targets.errors import StageFailed

# MatMulNBits wants one scale per block of at most 256 inputs, so a channel's one scale is written into each block.
# Activations are rounded to int8 block by block too: SmolLM2 in 8 bits reads KL 0.0059 and top-1 95.4 % with blocks of
# 32 on AVX2, and 0.0080 and 93.7 % with blocks of 64, which take a quarter less time to the first token.
CHANNEL_WISE_BLOCKS = (32, 16)
# The head is a fifth of all that a token reads, and what rounds its input does not pass through any other layer.
HEAD_BLOCKS = (64, 32, 16)
BLOCK_SIZES = (16, 32, 64, 128, 256)


# The two codes in every byte, low nibble first, as one number: numpy looks numbers up much faster than rows.
PAIRS = np.stack([np.arange(256) & 15, np.arange(256) >> 4], axis=-1).astype(np.uint8).view(np.uint16)[:, 0]


@dataclass(frozen=True)
class Layout:
    """What `MatMulNBits` is told of a weight, beside its numbers.

    Attributes:
        in_channels: inputs.
        out_channels: outputs.
        bits: 4 or 8.
        block_size: inputs per block.
        symmetric: it has no zero points.
    """

    in_channels: int
    out_channels: int
    bits: int
    block_size: int
    symmetric: bool


@dataclass(frozen=True)
class Blocks:
    """A weight as `MatMulNBits` stores it.

    Attributes:
        codes: [out, blocks, block_size * bits / 8] uint8, low nibble first.
        scales: [out, blocks] float32.
        zero_points: [out, ceil(blocks * bits / 8)] uint8, low nibble first; None when symmetric.
        bits: 4 or 8.
        block_size: inputs per block.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.uint8] | None
    bits: int
    block_size: int

    @property
    def in_channels(self) -> int:
        """Inputs of the weight."""
        return int(self.scales.shape[1]) * self.block_size

    @property
    def layout(self) -> Layout:
        """Its description, which holds none of its numbers."""
        return Layout(self.in_channels, len(self.codes), self.bits, self.block_size, self.zero_points is None)


def to_blocks(weight: QuantizedWeight, channel_wise: Sequence[int] = CHANNEL_WISE_BLOCKS) -> Blocks:
    """Lay out `weight`; without zero points the kernel takes half the code range as zero.

    Args:
        weight: [out, in].
        channel_wise: the block sizes for a weight with one scale a channel, in the order they are tried.

    Raises:
        StageFailed: the kernel has no block size for the weight's groups.
    """
    out_channels, in_channels = weight.codes.shape
    block_size = block_size_for(weight, channel_wise)
    blocks = in_channels // block_size
    middle = 1 << (weight.bits - 1)
    unsigned = weight.codes + np.int16(middle) if weight.zero_points is None else weight.stored_codes()
    repeat = blocks // weight.scales.shape[1]
    zero_points = None if weight.zero_points is None else np.repeat(weight.zero_points, repeat, axis=1).astype(np.uint8)
    return Blocks(
        codes=pack(unsigned.astype(np.uint8), weight.bits).reshape(out_channels, blocks, -1),
        scales=np.repeat(weight.scales, repeat, axis=1),
        zero_points=None if zero_points is None else pack(zero_points, weight.bits),
        bits=weight.bits,
        block_size=block_size,
    )


def block_size_for(weight: QuantizedWeight, channel_wise: Sequence[int]) -> int:
    """Inputs per block: the group size, or for a channel-wise weight the first size that divides its inputs.

    A last block that is only partly filled would do for MatMulNBits, but GatherBlockQuantized takes its padding for
    embeddings.

    Raises:
        StageFailed: there is none.
    """
    in_channels = weight.codes.shape[1]
    one_scale = weight.scales.shape[1] == 1
    sizes = channel_wise if one_scale else tuple({weight.group_size} & set(BLOCK_SIZES))
    for size in sizes:
        if in_channels % size == 0:
            return size
    groups = "one scale" if one_scale else f"groups of {weight.group_size}"
    raise StageFailed(
        f"MatMulNBits has no block size for {in_channels} input channels with {groups}",
        f"choose a group size of {', '.join(map(str, BLOCK_SIZES))}, or build for OpenVINO only",
    )


def from_blocks(blocks: Blocks) -> QuantizedWeight:
    """Read a weight back out of its blocks."""
    out_channels, count = blocks.scales.shape
    codes = unpack(blocks.codes.reshape(out_channels, -1), blocks.bits).astype(np.int16)
    if blocks.zero_points is None:
        codes -= 1 << (blocks.bits - 1)
        return QuantizedWeight(codes, blocks.scales, None, blocks.bits)
    zero_points = unpack(blocks.zero_points, blocks.bits)[:, :count].astype(np.int16)
    return QuantizedWeight(shifted(codes, -zero_points), blocks.scales, zero_points, blocks.bits)


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
    )


def pack(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack the last axis, two 4-bit values to a byte, low nibble first; 8-bit values stay as they are."""
    if bits == 8:
        return values
    if values.shape[1] % 2:
        values = np.pad(values, ((0, 0), (0, 1)))
    return np.asarray(values[:, 0::2] | (values[:, 1::2] << 4), np.uint8)


def unpack(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Undo `pack`; an odd count comes back with one value too many."""
    if bits == 8:
        return packed
    return PAIRS.take(packed).view(np.uint8).reshape(packed.shape[0], -1)
