"""GPTQ (Frantar et al., arXiv 2210.17323, algorithm 1): round one input channel after the other, and let those that
follow make up for its error.

Weights are taken in the order of falling input energy. Scales stay where each channel was, so any group size goes with
that order, and nothing of it is left in the result.
"""

from typing import TYPE_CHECKING

from quantize.grid import GridWeight, code_range, grouped
from quantize.recipe import GptqPlan
from targets.errors import StageFailed

if TYPE_CHECKING:
    import torch


def gptq(weight: "torch.Tensor", start: GridWeight, hessian: "torch.Tensor", plan: GptqPlan) -> GridWeight:
    """Round weight [out, in] to the grid of `start` so that its outputs stay near in the sense of `hessian`.

    Args:
        weight: float32, what the outputs are compared with.
        start: scales and zero points; its positions are not looked at.
        hessian: [in, in], the mean of x x^T over the inputs x.
        plan: damping and block size.

    Returns:
        The same scales with new positions: the compensated weights just before each was rounded.

    Raises:
        StageFailed: the Hessian is not positive definite even when damped.
    """
    import torch

    order, factor = inverse_factor(hessian, plan.damping)
    size = start.position.shape[-1]
    scale, zero = (part[..., 0][:, order // size] for part in (start.scale, start.zero))
    rest = weight[:, order].clone()
    positions = torch.empty_like(rest)
    lowest, highest = code_range(start.scheme)
    in_channels = weight.shape[1]
    for begin in range(0, in_channels, plan.block):
        end = min(begin + plan.block, in_channels)
        errors = torch.empty(weight.shape[0], end - begin)
        for column in range(begin, end):
            positions[:, column] = rest[:, column] / scale[:, column]
            codes = (positions[:, column].round() + zero[:, column]).clamp_(lowest, highest) - zero[:, column]
            error = (rest[:, column] - codes * scale[:, column]) / factor[column, column]
            rest[:, column + 1 : end].addr_(error, factor[column, column + 1 : end], alpha=-1)
            errors[:, column - begin] = error
        rest[:, end:] -= errors @ factor[begin:end, end:]
    back = torch.argsort(order)
    return GridWeight(grouped(positions[:, back], start.scheme), start.scale, start.zero, start.scheme)


def inverse_factor(hessian: "torch.Tensor", damping: float) -> "tuple[torch.Tensor, torch.Tensor]":
    """The order of channels, and the upper Cholesky factor of the damped inverse in that order, float32.

    Raises:
        StageFailed: there is none.
    """
    import torch

    damped = hessian.double()
    diagonal = damped.diagonal().clone()
    mean = float(diagonal.mean())
    silent = (diagonal == 0).double()
    damped = damped + torch.diag(silent * max(mean, 1.0) + damping * mean)
    order = torch.argsort(diagonal, descending=True, stable=True)
    factor, failed = torch.linalg.cholesky_ex(damped[order][:, order])
    upper, failed_again = torch.linalg.cholesky_ex(torch.cholesky_inverse(factor), upper=True)
    if failed or failed_again or not torch.isfinite(upper).all():
        raise StageFailed(
            "the calibration inputs of a weight make no positive definite Hessian", "give more calibration text"
        )
    return order, upper.float()
