"""What bisection reports of an OpenVINO decoder that a compiler refuses."""

from collections.abc import Callable
from pathlib import Path

import pytest

from compile.openvino_refused_part import cut, find_refused_part, fixed, work
from tests.conftest import Packages

MODEL = "openvino_model.xml"


@pytest.fixture(scope="module")
def decoder(tiny_packages: Packages) -> Path:
    return tiny_packages["llama", "w8-sym", "openvino"].folder / MODEL


class Toy:
    """A compiler that refuses parts by the types of their operators."""

    def __init__(self, refuses: Callable[[list[str]], bool]) -> None:
        self.refuses = refuses
        self.asked = 0

    def __call__(self, path: Path) -> bool:
        import openvino as ov

        self.asked += 1
        model = ov.Core().read_model(path)
        assert not model.is_dynamic()
        ov.Core().compile_model(model, "CPU")  # every part is a model that can be run
        return not self.refuses([node.get_type_name() for node in work(model)])


def test_the_decoder_has_fixed_shapes_and_no_state(decoder: Path) -> None:
    model = fixed(decoder)
    assert not model.is_dynamic()
    assert not model.get_sinks()
    kinds = [node.get_type_name() for node in work(model)]
    assert kinds.count("ScaledDotProductAttention") == 2
    assert not {"ReadValue", "Assign", "Constant"} & set(kinds)


def test_one_operator_is_found_with_what_it_reads(decoder: Path, tmp_path: Path) -> None:
    toy = Toy(lambda kinds: "ScaledDotProductAttention" in kinds)
    found = find_refused_part(decoder, toy, tmp_path)
    assert found is not None
    assert [kind for kind, _ in found.operators] == ["ScaledDotProductAttention"]
    assert "f32[1, 4, 1, 16]" in found.inputs
    assert str(found).startswith("ScaledDotProductAttention ")
    assert toy.asked < 20


def test_operators_refused_only_together_are_both_found(decoder: Path, tmp_path: Path) -> None:
    toy = Toy(lambda kinds: {"Gather", "ScaledDotProductAttention"} <= set(kinds))
    found = find_refused_part(decoder, toy, tmp_path)
    assert found is not None
    assert sorted(kind for kind, _ in found.operators) == ["Gather", "ScaledDotProductAttention"]


def test_a_model_that_is_taken_gives_nothing(decoder: Path, tmp_path: Path) -> None:
    assert find_refused_part(decoder, lambda path: True, tmp_path) is None


def test_a_part_keeps_its_weights(decoder: Path) -> None:
    """What is computed of constants alone comes along, dequantization among it."""
    whole = fixed(decoder)
    first = next(index for index, node in enumerate(work(whole)) if node.get_type_name() == "MatMul")
    part = cut(whole, [first])
    assert [node.get_type_name() for node in work(part)] == ["MatMul"]
    assert any(node.get_type_name() == "Constant" for node in part.get_ordered_ops())
    assert len(part.inputs) == 1
