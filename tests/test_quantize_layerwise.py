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
from quantize.layerwise import GROUPS, Moments, mend, round_layers
from quantize.recipe import ClipPlan, GptqPlan
from quantize.scheme import Scheme, parse_scheme
from tests.conftest import VARIANTS, Models
from tests.tiny_calibration import ignore, tiny_calibration

CHANNEL_WISE = "w4-sym-cw"


def schemes_of(decoder: Any, name: str = CHANNEL_WISE) -> dict[str, Scheme]:
    return {weight: parse_scheme(name) for weight in linear_modules(decoder)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_groups_are_the_linear_modules_of_every_decoder_we_build(tiny_models: Models, variant: str) -> None:
    """Those of a group read the same tensor, and each residual named is what the group's output is added to."""
    layer = load_decoder(tiny_models[variant].folder).model.layers[0]
    named = [name for names, _ in GROUPS for name in names]
    assert sorted(f"{name}.weight" for name in named) == sorted(linear_modules(layer))
    seen: dict[str, Any] = {}

    def watch(name: str, module: Any) -> None:
        module.register_forward_pre_hook(lambda _, inputs: seen.update({f"{name} in": inputs[0]}))
        module.register_forward_hook(lambda _, inputs, output: seen.update({f"{name} out": output}))

    for name in (*named, "input_layernorm", "post_attention_layernorm"):
        watch(name, layer.get_submodule(name))
    tokens = torch.arange(20)[None]
    decoder = load_decoder(tiny_models[variant].folder)
    after = run_layer(layer, first_layer_calls(decoder, tokens)[0], exact=True).hidden
    for names, _ in GROUPS:
        assert len({seen[f"{name} in"].data_ptr() for name in names}) == 1
    middle = seen["input_layernorm in"] + seen["self_attn.o_proj out"]
    torch.testing.assert_close(middle, seen["post_attention_layernorm in"])
    torch.testing.assert_close(middle + seen["mlp.down_proj out"], after)


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
