"""The grid of codes a scheme allows a weight, in torch: fit scales to it, round to it, and hand the result on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quantize.recipe import ClipPlan
from quantize.scheme import Scheme
from quantize.weight import QuantizedWeight
from targets.legality import CHANNEL_WISE

if TYPE_CHECKING:
    import torch

# float16 holds every scale that is not smaller than this to 11 bits.
SMALLEST_NORMAL_HALF = 2.0**-14


@dataclass(frozen=True)
class GridWeight:
    """A weight on its way to the grid: `weight = (clamp(round(position) + zero) - zero) * scale`.

    Attributes:
        position: [out, groups, size] float32, the weight in units of its scale: codes that are not yet rounded.
        scale: [out, groups, 1] float32; may be negative where symmetric.
        zero: [out, groups, 1] float32 whole numbers; all 0 where symmetric.
        scheme: the format.
    """

    position: "torch.Tensor"
    scale: "torch.Tensor"
    zero: "torch.Tensor"
    scheme: Scheme

    def codes(self) -> "torch.Tensor":
        """[out, groups, size] whole numbers around zero."""
        lowest, highest = code_range(self.scheme)
        return (self.position.round() + self.zero).clamp_(lowest, highest).sub_(self.zero)

    def weight(self) -> "torch.Tensor":
        """[out, in] float32, on the grid."""
        return (self.codes() * self.scale).flatten(1)

    def quantized(self) -> QuantizedWeight:
        """The same for the hub."""
        codes = self.codes().flatten(1).numpy().astype(np.int16)
        scales = self.scale[..., 0].numpy().astype(np.float32)
        zero_points = None if self.scheme.symmetric else self.zero[..., 0].numpy().astype(np.int16)
        return QuantizedWeight(codes, scales, zero_points, self.scheme.bits)


def code_range(scheme: Scheme) -> tuple[int, int]:
    """The smallest and the largest stored code."""
    levels = 1 << scheme.bits
    return (-levels // 2, levels // 2 - 1) if scheme.symmetric else (0, levels - 1)


def grouped(weight: "torch.Tensor", scheme: Scheme) -> "torch.Tensor":
    """[out, in] as [out, groups, size]; the group size must divide `in`."""
    out_channels, in_channels = weight.shape
    size = in_channels if scheme.group_size == CHANNEL_WISE else scheme.group_size
    return weight.reshape(out_channels, in_channels // size, size)


def half_scales(scale: "torch.Tensor") -> "torch.Tensor":
    """Scales rounded to what float16 holds, so that a runtime may store them in 16 bits and compute the same.

    A weight with a scale below float16's normal range keeps all of its scales as they are.
    """
    if float(scale.abs().min()) < SMALLEST_NORMAL_HALF:
        return scale
    return scale.half().float()


def fit(weight: "torch.Tensor", scheme: Scheme, plan: ClipPlan, importance: "torch.Tensor | None" = None) -> GridWeight:
    """Put weight [out, in] on the scheme's grid with the scales of least squared error.

    Args:
        weight: float32.
        scheme: the format.
        plan: which scales are tried.
        importance: [in], what a squared error counts at each input; None counts all alike.
    """
    import torch

    values = grouped(weight, scheme)
    counts = torch.ones(values.shape[1:]) if importance is None else importance.reshape(values.shape[1:])
    best = torch.full_like(values[..., :1], torch.inf)
    chosen = [torch.ones_like(best), torch.zeros_like(best)]
    for scale, zero in candidates(values, scheme, plan):
        scaled = GridWeight(values / scale, scale, zero, scheme)
        error = scaled.codes().mul_(scale).sub_(values).square_().mul_(counts).sum(-1, keepdim=True)
        better = error < best
        best = torch.where(better, error, best)
        chosen = [torch.where(better, new, old) for new, old in zip((scale, zero), chosen, strict=True)]
    scale = half_scales(chosen[0])
    return GridWeight(values / scale, scale, chosen[1], scheme)


def candidates(values: "torch.Tensor", scheme: Scheme, plan: ClipPlan) -> "list[tuple[torch.Tensor, torch.Tensor]]":
    """(scale, zero) to try for values [out, groups, size]: those that clip nothing, and smaller ones.

    A symmetric scale may be negative: the codes reach one further below zero than above, and the sign says which end
    of the weights that is. An asymmetric range is shortened at both ends, or at either.
    """
    import torch

    lowest, highest = code_range(scheme)
    shares = torch.linspace(plan.smallest, 1.0, plan.candidates).tolist()
    if scheme.symmetric:
        largest, where = values.abs().max(-1, keepdim=True)
        sign = torch.where(torch.gather(values, -1, where) < 0, 1.0, -1.0)
        scale = torch.where(largest > 0, largest / -lowest, 1.0) * sign
        none = torch.zeros_like(scale)
        return [(scale * share * way, none) for share in shares for way in (1.0, -1.0)]
    bottom, top = values.amin(-1, keepdim=True).clamp(max=0.0), values.amax(-1, keepdim=True).clamp(min=0.0)
    found = []
    for low, high in dict.fromkeys(pair for share in shares for pair in ((share, share), (1.0, share), (share, 1.0))):
        scale = (top * high - bottom * low) / highest
        scale = torch.where(scale > 0, scale, 1.0)
        found.append((scale, (-bottom * low / scale).round().clamp(lowest, highest)))
    return found
