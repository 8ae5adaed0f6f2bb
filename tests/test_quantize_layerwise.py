import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.model import Model
from quantize.decoder import (
    divergence,
    first_layer_calls,
    hidden_states,
    linear_modules,
    load_decoder,
    log_probabilities,
    run_layer,
)
from quantize.grid import GridWeight, fit
from quantize.layerwise import Moments, gram, mend, round_layers
from quantize.recipe import ClipPlan, GptqPlan
from quantize.scheme import Scheme, parse_scheme
from quantize.walk import GROUPS, walk
from tests.conftest import VARIANTS, Models
from tests.tiny_calibration import ignore, tiny_calibration

CHANNEL_WISE = "w4-sym-cw"


def schemes_of(decoder: Any, name: str = CHANNEL_WISE) -> dict[str, Scheme]:
    return {weight: parse_scheme(name) for weight in linear_modules(decoder)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_groups_are_the_linear_modules_of_every_decoder_we_build(tiny_models: Models, variant: str) -> None:
    """A walk stops before each group with what its weights are called with, and ends where the layer does."""
    decoder = load_decoder(tiny_models[variant].folder)
    layer = decoder.model.layers[0]
    assert sorted(f"{name}.weight" for names in GROUPS for name in names) == sorted(linear_modules(layer))
    seen: dict[str, torch.Tensor] = {}

    def watch(name: str) -> None:
        def keep(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            seen.setdefault(name, inputs[0])

        layer.get_submodule(name).register_forward_pre_hook(keep)

    for name in (*(name for names in GROUPS for name in names), "input_layernorm", "post_attention_layernorm"):
        watch(name)
    (call,) = first_layer_calls(decoder, torch.arange(20)[None])
    after = run_layer(layer, call).hidden
    *stops, end = walk(layer, call)
    for names, stop in zip(GROUPS, stops, strict=True):
        for name in names:
            torch.testing.assert_close(stop.hidden, seen[name])
    torch.testing.assert_close(end.hidden, after)
    residuals = [stop.residual for stop in stops if stop.residual is not None]
    for residual, name in zip(residuals, ("input_layernorm", "post_attention_layernorm"), strict=True):
        torch.testing.assert_close(residual, seen[name])


def test_a_walk_uses_the_weights_that_a_group_has_when_it_goes_on(tiny_models: Models) -> None:
    decoder = load_decoder(tiny_models["llama"].folder)
    layer = decoder.model.layers[0]
    (call,) = first_layer_calls(decoder, torch.arange(20)[None])
    steps = walk(layer, call)
    for names in GROUPS:
        next(steps)
        for name in names:
            layer.get_submodule(name).weight.data.mul_(0.5)
    torch.testing.assert_close(next(steps).hidden, run_layer(layer, call).hidden)


@pytest.mark.parametrize("inputs", [6, 383, 384, 1537])
def test_a_gram_matrix_is_the_product_it_stands_for(inputs: int) -> None:
    rows = torch.randn(50, inputs, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(gram(rows), rows.T @ rows, rtol=1e-4, atol=1e-4)


def test_mending_solves_the_least_squares_it_states() -> None:
    random = torch.Generator().manual_seed(1)
    floats, inputs = (torch.randn(200, 12, generator=random, dtype=torch.float64) for _ in range(2))
    inputs += floats
    weight, drift = torch.randn(5, 12, generator=random), torch.randn(200, 5, generator=random, dtype=torch.float64)
    moments = Moments(
        (inputs.T @ inputs / 200).float(), (floats.T @ inputs / 200).float(), (drift.T @ inputs / 200).float()
    )
    damping = 0.1
    held = (damping * moments.own.diagonal().mean().double() * 200).sqrt() * torch.eye(12, dtype=torch.float64)
    rows = torch.cat([inputs, held])
    goal = torch.cat([floats @ weight.double().T + drift, held @ weight.double().T])
    expected = torch.linalg.lstsq(rows, goal).solution.T
    torch.testing.assert_close(mend(weight, moments, damping).double(), expected, rtol=1e-4, atol=1e-4)


def test_a_decoder_without_error_is_not_moved() -> None:
    own = torch.diag(torch.rand(6, generator=torch.Generator().manual_seed(1)) + 0.1)
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(mend(weight, Moments(own, own, None), 0.05), weight)


def kl_after(model: Model, tokens: torch.Tensor, found: dict[str, GridWeight]) -> float:
    exact, decoder = load_decoder(model.folder), load_decoder(model.folder)
    for name, module in linear_modules(decoder).items():
        module.weight.data.copy_(found[name].weight())
    expected, got = (log_probabilities(one, hidden_states(one, tokens)) for one in (exact, decoder))
    return divergence(expected, got)


def test_gptq_beats_clipping_and_is_the_same_twice(tiny_model: Model, tmp_path: Path) -> None:
    tokens = torch.from_numpy(tiny_calibration(tiny_model, tmp_path / "calibration").load())

    def run(plan: GptqPlan) -> dict[str, GridWeight]:
        pair = load_decoder(tiny_model.folder), load_decoder(tiny_model.folder)
        return round_layers(pair, tokens, schemes_of(pair[1]), plan, ignore)

    plan = dataclasses.replace(GptqPlan(), sequences=8)
    found = run(plan)
    clipped = {
        name: fit(module.weight.data, parse_scheme(CHANNEL_WISE), ClipPlan())
        for name, module in linear_modules(load_decoder(tiny_model.folder)).items()
    }
    assert kl_after(tiny_model, tokens, found) < 0.8 * kl_after(tiny_model, tokens, clipped)
    again = run(plan)
    for name, weight in found.items():
        np.testing.assert_array_equal(weight.quantized().codes, again[name].quantized().codes)
        np.testing.assert_array_equal(weight.quantized().scales, again[name].quantized().scales)
