from pathlib import Path

import onnx_ir as ir
import pytest

from export.hub import OnnxModel
from export.model import Model
from quantize.calibrated import CalibratedInputs
from quantize.candidates import EXPECTED, Candidate, list_candidates, method_of, predict_kl, undominated, weight_bytes
from quantize.quantizer import quantize_model
from quantize.recipe import parse_recipe
from quantize.scheme import parse_scheme
from quantize.sensitivity import Sensitivity
from targets.errors import UsageError
from targets.legality import LEGALITY, legal_schemes
from tests.tiny_calibration import ignore, tiny_inputs


@pytest.fixture(scope="module")
def inputs(tiny_model: Model, tmp_path_factory: pytest.TempPathFactory) -> CalibratedInputs:
    return tiny_inputs(tiny_model, tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def sensitivity(inputs: CalibratedInputs) -> Sensitivity:
    assert inputs.sensitivity is not None
    return inputs.sensitivity


@pytest.mark.parametrize(
    "name", ["w8-sym", "w8-asym", "w4-sym-g32", "w4-asym-g16", "w4-asym-cw", "w4-sym-g128", "w4-asym-g32+keep30"]
)
def test_bytes_are_those_of_the_hub(
    tiny_hub: OnnxModel, inputs: CalibratedInputs, sensitivity: Sensitivity, tmp_path: Path, name: str
) -> None:
    recipe = parse_recipe(name)
    quantized = quantize_model(tiny_hub, recipe, tmp_path, ignore, inputs)
    stored = ir.load(quantized.graph).graph.initializers
    parts = [
        value.const_value for name, value in stored.items() if name.endswith((".codes", ".scales", ".zero_points"))
    ]
    assert weight_bytes(recipe, tiny_hub.facts, sensitivity) == sum(part.nbytes for part in parts if part is not None)


@pytest.mark.parametrize("legality", [name for name, table in LEGALITY.items() if not table.refusal])
def test_a_device_is_offered_only_what_it_takes(
    inputs: CalibratedInputs, sensitivity: Sensitivity, legality: str
) -> None:
    found = list_candidates(inputs.model.facts, sensitivity, legality)
    assert found
    for one in found:
        recipe = parse_recipe(one.recipe)
        assert recipe.scheme in legal_schemes(legality)
        assert not recipe.keep or 8 in LEGALITY[legality].weight_bits
    assert [one.weight_bytes for one in found] == sorted(one.weight_bytes for one in found)
    assert [one.predicted_kl for one in found] == sorted((one.predicted_kl for one in found), reverse=True)
    assert len({one.recipe for one in found}) == len(found)


def test_a_byte_budget_and_an_unknown_device(inputs: CalibratedInputs, sensitivity: Sensitivity) -> None:
    facts = inputs.model.facts
    every = list_candidates(facts, sensitivity, "openvino-cpu")
    budget = every[len(every) // 2].weight_bytes
    assert list_candidates(facts, sensitivity, "openvino-cpu", budget) == every[: len(every) // 2 + 1]
    assert list_candidates(facts, sensitivity, "openvino-cpu", 10) == ()
    with pytest.raises(UsageError, match="unknown legality table 'openvino-cpy'"):
        list_candidates(facts, sensitivity, "openvino-cpy")


def test_only_a_thorough_search_trains(inputs: CalibratedInputs, sensitivity: Sensitivity) -> None:
    facts = inputs.model.facts
    quick, thorough = (list_candidates(facts, sensitivity, "openvino-cpu", thorough=each) for each in (False, True))
    assert not [one for one in quick if "distill" in one.recipe]
    assert [one for one in thorough if "distill" in one.recipe]


def test_groups_that_fit_no_weight_are_not_offered(inputs: CalibratedInputs, sensitivity: Sensitivity) -> None:
    offered = {one.recipe.partition("+")[0] for one in list_candidates(inputs.model.facts, sensitivity, "openvino-cpu")}
    assert not {name for name in offered if name.endswith(("g192", "g256"))}


def test_predictions_order_recipes_as_theory_does(sensitivity: Sensitivity) -> None:
    def kl(name: str) -> float:
        return predict_kl(parse_recipe(name), sensitivity)

    measured_at = parse_scheme(sensitivity.scheme).name
    share, power = EXPECTED["clip"]
    assert kl(f"{measured_at}+clip") == pytest.approx(share * sum(cost.kl for cost in sensitivity.weights) ** power)
    for better, worse in (
        ("w4-sym-g16+gptq", "w4-sym-g32+gptq"),
        ("w4-asym-g32+gptq", "w4-sym-g32+gptq"),
        ("w4-sym-g32+gptq", "w4-sym-cw+gptq"),
        ("w4-sym-cw+gptq+distill", "w4-sym-cw+gptq"),
        ("w4-sym-cw+gptq", "w4-sym-cw+clip"),
        ("w4-sym-cw+keep20+gptq", "w4-sym-cw+keep10+gptq"),
        ("w8-sym", "w4-asym-g16+keep50+clip"),
    ):
        assert kl(better) < kl(worse), (better, worse)


def test_a_front_has_nothing_that_another_beats() -> None:
    found = [Candidate("a", 10, 0.5), Candidate("b", 9, 0.6), Candidate("c", 11, 0.5), Candidate("d", 9, 0.7)]
    assert [one.recipe for one in undominated(found)] == ["b", "a"]
    assert method_of("w4-sym-cw+keep10+gptq+distill") == "gptq+distill"
    assert method_of("w8-sym") == ""
