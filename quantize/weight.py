"""One quantized weight in a form no runtime owns, and the digest that proves two packages hold the same weights."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.digest import digest_parts, digest_value


@dataclass(frozen=True)
class QuantizedWeight:
    """A linear weight or an embedding table as integers and scales: `weight = codes * scales` group by group.

    Attributes:
        codes: [out, in] int16, the stored codes minus their zero point.
        scales: [out, groups] float32; group `g` covers input channels `g * in / groups` onward.
        zero_points: [out, groups] int16, to be added to `codes` for storage; None when symmetric.
        bits: width of a stored code.
    """

    codes: NDArray[np.int16]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.int16] | None
    bits: int

    @property
    def group_size(self) -> int:
        """Input channels that share a scale."""
        return int(self.codes.shape[1] // self.scales.shape[1])

    def stored_codes(self) -> NDArray[np.int16]:
        """[out, in]: codes as they are stored, zero points added: in -8..7 or -128..127, unsigned when asymmetric."""
        if self.zero_points is None:
            return self.codes
        return shifted(self.codes.copy(), self.zero_points)

    def dequantize(self) -> NDArray[np.float32]:
        """[out, in] float32."""
        return self.codes.astype(np.float32) * np.repeat(self.scales, self.group_size, axis=1)

    def digest(self) -> str:
        """SHA-256 over the numbers, whatever layout, packing or zero point a runtime stores them with.

        A channel-wise scale repeated for every block counts as the one scale it is.
        """
        scales = self.scales
        if (scales == scales[:, :1]).all():
            scales = scales[:, :1]
        shape = f"{self.bits}:{self.codes.shape}:{scales.shape}:".encode()
        codes, scales = np.ascontiguousarray(self.codes, "<i2"), np.ascontiguousarray(scales, "<f4")
        return digest_parts(shape, codes.data.cast("B"), scales.data.cast("B"))


def shifted(codes: NDArray[np.int16], zero_points: NDArray[np.int16]) -> NDArray[np.int16]:
    """Add zero points [out, groups] to codes [out, in], in place."""
    grouped = codes.reshape(*zero_points.shape, -1)
    grouped += zero_points[..., None]
    return codes


def digest_weights(digests: Mapping[str, str]) -> str:
    """One digest for a model's quantized weights, given each weight's digest by its hub name."""
    return digest_value(dict(digests))
