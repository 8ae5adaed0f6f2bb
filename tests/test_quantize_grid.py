import numpy as np
import pytest
import torch

from quantize.grid import SMALLEST_NORMAL_HALF, code_range, fit, half_scales
from quantize.nearest import quantize_weight
from quantize.recipe import ClipPlan
from quantize.scheme import parse_scheme

SCHEMES = ("w4-sym-g32", "w4-asym-g32", "w4-sym-cw", "w4-asym-cw", "w8-sym", "w8-asym")


def some_weight(rows: int = 24, columns: int = 64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator) * 0.1


@pytest.mark.parametrize("name", SCHEMES)
def test_what_is_handed_on_is_what_was_computed(name: str) -> None:
    scheme = parse_scheme(name)
    weight = some_weight()
    placed = fit(weight, scheme, ClipPlan())
    quantized = placed.quantized()
    np.testing.assert_array_equal(quantized.dequantize(), placed.weight().numpy())
    lowest, highest = code_range(scheme)
    assert lowest <= quantized.stored_codes().min() <= quantized.stored_codes().max() <= highest
    assert (quantized.zero_points is None) == scheme.symmetric
    assert quantized.scales.shape == (24, 2 if "g32" in name else 1)
    np.testing.assert_array_equal(quantized.scales.astype(np.float16).astype(np.float32), quantized.scales)


@pytest.mark.parametrize("name", SCHEMES)
def test_no_scale_clips_better_than_the_one_chosen_and_none_is_worse_than_rounding_to_nearest(name: str) -> None:
    scheme = parse_scheme(name)
    weight = some_weight()
    weight[:, ::16] *= 4
    error = float((fit(weight, scheme, ClipPlan(candidates=24)).weight() - weight).square().sum())
    nearest = quantize_weight(weight.numpy(), scheme)
    # Scales rounded to float16 may cost a millionth where 8 bits leave nothing to gain.
    assert error <= float(np.square(nearest.dequantize() - weight.numpy()).sum()) * 1.001
    if scheme.bits == 4:
        assert error < 0.98 * float(np.square(nearest.dequantize() - weight.numpy()).sum())


def test_an_important_input_is_kept_nearer() -> None:
    weight = some_weight(columns=32)
    weight[:, 5] *= 6
    counts = torch.ones(32)
    plain = fit(weight, parse_scheme("w4-sym-g32"), ClipPlan())
    counts[5] = 100.0
    careful = fit(weight, parse_scheme("w4-sym-g32"), ClipPlan(), counts)
    errors = [float((one.weight() - weight)[:, 5].square().sum()) for one in (plain, careful)]
    assert errors[1] < errors[0]


def test_a_group_of_zeros_stays_zero() -> None:
    for name in SCHEMES:
        weight = some_weight()
        weight[0] = 0.0
        placed = fit(weight, parse_scheme(name), ClipPlan())
        assert bool(torch.isfinite(placed.weight()).all())
        assert not placed.weight()[0].any()
        assert float(placed.scale.abs().min()) >= SMALLEST_NORMAL_HALF


def test_scales_too_small_for_float16_stay_as_they_are() -> None:
    scale = torch.tensor([1.0 / 3, 1e-7])
    assert half_scales(scale) is scale
    assert half_scales(scale[:1]) == scale[:1].half().float() != scale[:1]
