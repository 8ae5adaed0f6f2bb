from pathlib import Path

import pytest
import torch

from export.model import Model
from quantize.calibrated import CalibratedInputs
from quantize.decoder import divergence, hidden_states, linear_modules, load_decoder, log_probabilities
from quantize.grid import fit
from quantize.scheme import parse_scheme
from quantize.sensitivity import Sensitivity, SensitivityPlan, WeightCost, measure_sensitivity
from tests.tiny_calibration import ignore, tiny_calibration, tiny_inputs

PLAN = SensitivityPlan(sequences=4, tokens=32)


@pytest.fixture(scope="module")
def inputs(tiny_model: Model, tmp_path_factory: pytest.TempPathFactory) -> CalibratedInputs:
    return tiny_inputs(tiny_model, tmp_path_factory.mktemp("inputs"))


def measured(inputs: CalibratedInputs) -> Sensitivity:
    assert inputs.sensitivity is not None
    return inputs.sensitivity


def test_every_weight_and_every_layer_has_a_cost(inputs: CalibratedInputs) -> None:
    found = measured(inputs)
    decoder = load_decoder(inputs.model.folder)
    assert [cost.name for cost in found.weights] == list(linear_modules(decoder))
    assert [cost.shape for cost in found.weights] == [tuple(m.weight.shape) for m in linear_modules(decoder).values()]
    assert len(found.layers) == inputs.model.n_layers
    assert all(cost.kl > 0 for cost in found.weights)
    for layer, whole in enumerate(found.layers):
        assert whole > max(cost.kl for cost in found.weights if cost.layer == layer)


def test_a_cost_is_the_kl_of_the_whole_model_with_that_weight_rounded(inputs: CalibratedInputs) -> None:
    found = measured(inputs)
    tokens = torch.from_numpy(inputs.calibration.load())[-PLAN.sequences :, : PLAN.tokens]
    for cost in (found.weights[2], found.weights[-1]):
        exact, decoder = load_decoder(inputs.model.folder), load_decoder(inputs.model.folder)
        module = linear_modules(decoder)[cost.name]
        module.weight.data.copy_(fit(module.weight.data, parse_scheme(found.scheme), PLAN.clip).weight())
        before, after = (log_probabilities(one, hidden_states(one, tokens)) for one in (exact, decoder))
        assert cost.kl == pytest.approx(divergence(before, after), rel=1e-3, abs=1e-7)


def test_the_same_twice(inputs: CalibratedInputs, tmp_path: Path) -> None:
    again = measure_sensitivity(inputs.model, inputs.calibration, "w4-sym-g32", PLAN, tmp_path, ignore)
    assert (again.weights, again.layers) == (measured(inputs).weights, measured(inputs).layers)


def test_a_weight_that_is_hard_to_round_leads_the_ranking(tiny_model: Model, tmp_path: Path) -> None:
    """One outlier in each row of one weight, on an input that is next to nothing, takes all codes from the others."""
    from safetensors.torch import load_file, save_file

    name = "model.layers.1.mlp.up_proj.weight"
    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny_model.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    tensors[name][:, 0] *= 200
    tensors["model.layers.1.post_attention_layernorm.weight"][0] = 1e-5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = type(tiny_model)(**{**vars(tiny_model), "folder": folder})
    calibration = tiny_calibration(model, tmp_path / "calibration")
    found = measure_sensitivity(model, calibration, "w4-sym-cw", PLAN, tmp_path, ignore)
    assert found.ranking()[0].name == name
    assert name in found.keep(20)


def cost(name: str, kl: float, shape: tuple[int, int]) -> WeightCost:
    return WeightCost(name, 0, name, shape, kl)


def test_what_is_kept_costs_most_for_its_size_and_stays_within_the_share() -> None:
    weights = (cost("a", 0.4, (10, 40)), cost("b", 0.2, (10, 10)), cost("c", 0.05, (10, 45)), cost("d", 0.01, (5, 10)))
    found = Sensitivity(Path(), "w4-sym-cw", weights, (1.0,))
    assert [weight.name for weight in found.ranking()] == ["b", "a", "d", "c"]
    assert found.keep(0) == frozenset()
    assert found.keep(10) == {"b"}
    assert found.keep(15) == {"b", "d"}
    assert found.keep(50) == {"b", "a"}
    assert found.keep(99) == {"b", "a", "d"}
