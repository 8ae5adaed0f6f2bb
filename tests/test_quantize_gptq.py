"""GPTQ against the formulas it abbreviates: the optimal brain surgeon's update with a fresh inverse at every step."""

import dataclasses

import pytest
import torch

from quantize.gptq import gptq, inverse_factor
from quantize.grid import GridWeight, code_range, fit
from quantize.recipe import ClipPlan, GptqPlan
from quantize.scheme import parse_scheme
from targets.errors import StageFailed

PLAN = GptqPlan(block=7)


def inputs(rows: int, columns: int) -> torch.Tensor:
    """Correlated inputs of uneven energy."""
    generator = torch.Generator().manual_seed(3)
    mixed = torch.randn(rows, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    return mixed * torch.rand(columns, generator=generator)


def reference(weight: torch.Tensor, start: GridWeight, hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """Codes [out, in]: after each rounding, the rest moves by -error / [H^-1]_qq * [H^-1]_q, H over what is left."""
    rest = weight.double().clone()
    size = start.position.shape[-1]
    damped = hessian.double() + damping * hessian.diagonal().double().mean() * torch.eye(len(hessian))
    order = torch.argsort(hessian.diagonal().double(), descending=True, stable=True).tolist()
    codes = torch.zeros_like(rest)
    lowest, highest = code_range(start.scheme)
    for step, channel in enumerate(order):
        left = order[step:]
        inverse = torch.linalg.inv(damped[left][:, left])
        scale, zero = start.scale[:, channel // size, 0].double(), start.zero[:, channel // size, 0].double()
        codes[:, channel] = ((rest[:, channel] / scale).round() + zero).clamp(lowest, highest) - zero
        error = (rest[:, channel] - codes[:, channel] * scale) / inverse[0, 0]
        rest[:, left] -= error[:, None] * inverse[0][None]
    return codes


@pytest.mark.parametrize("name", ["w4-sym-g16", "w4-asym-g16", "w4-sym-cw", "w8-asym"])
def test_codes_are_those_of_the_reference(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(12, 48, generator=generator)
    seen = inputs(400, 48)
    hessian = seen.T @ seen / len(seen)
    start = fit(weight, parse_scheme(name), ClipPlan(), hessian.diagonal())
    found = gptq(weight, start, hessian, PLAN)
    expected = reference(weight, start, hessian, PLAN.damping)
    differing = (found.codes().flatten(1) != expected).double().mean()
    assert float(differing) < 0.005  # a tie that float32 and float64 round apart
    error, plain = (float((seen @ (one.weight() - weight).T).square().sum()) for one in (found, start))
    assert error < 0.8 * plain


def test_the_order_of_channels_leaves_no_trace() -> None:
    """With inputs that are not correlated nothing is made up for: every weight is rounded to nearest."""
    weight = torch.randn(6, 32, generator=torch.Generator().manual_seed(2))
    start = fit(weight, parse_scheme("w4-asym-g16"), ClipPlan())
    energies = torch.rand(32, generator=torch.Generator().manual_seed(4)) + 0.1
    found = gptq(weight, start, torch.diag(energies), PLAN)
    assert torch.equal(found.codes(), start.codes())


def test_silent_inputs_and_a_hessian_that_is_none() -> None:
    seen = inputs(100, 16)
    seen[:, 3] = 0
    order, factor = inverse_factor(seen.T @ seen / 100, 0.01)
    assert sorted(order.tolist()) == list(range(16))
    assert bool(torch.isfinite(factor).all())
    with pytest.raises(StageFailed, match="no positive definite Hessian"):
        inverse_factor(torch.full((4, 4), torch.nan), 0.01)
    with pytest.raises(StageFailed, match="no positive definite Hessian"):
        inverse_factor(-torch.eye(4), 0.01)


def test_blocks_change_nothing() -> None:
    weight = torch.randn(8, 40, generator=torch.Generator().manual_seed(5))
    seen = inputs(300, 40)
    hessian = seen.T @ seen / 300
    start = fit(weight, parse_scheme("w4-sym-cw"), ClipPlan())
    whole, parts = (gptq(weight, start, hessian, dataclasses.replace(PLAN, block=block)).codes() for block in (40, 3))
    assert float((whole != parts).double().mean()) < 0.01
