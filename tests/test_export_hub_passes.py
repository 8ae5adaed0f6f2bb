from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx_ir import passes

from export.hub_passes import (
    FINITE_MASK,
    HUB_OPSET,
    FiniteMaskPass,
    FuseRmsNormPass,
    NameWeightsPass,
    RaiseOpsetPass,
    RemoveSameTypeCastPass,
    TieEmbeddingPass,
)
from targets.errors import StageFailed

HEADER = '<ir_version: 8, opset_import: ["" : 18]>\n'
RANDOM = np.random.default_rng(3)

RMS_NORM = """
rms (float[n, 4] x) => (float[n, 4] y)
<float[4] weight = {1.0, 2.0, 3.0, 4.0}, float two = {2}, float one = {1}, float eps = {0.01}, int64[1] last = {-1}>
{
    square = Pow (x, two)
    mean = ReduceMean <keepdims = 1> (square, last)
    shifted = Add (mean, eps)
    root = Sqrt (shifted)
    inverse = Div (one, root)
    normalised = Mul (x, inverse)
    y = Mul (weight, normalised)
}
"""

CASTS = """
casts (float[n] x) => (float[n] y, int64[n] z, float[n] w)
{
    same = Cast <to = 1> (x)
    y = Neg (same)
    z = Cast <to = 7> (same)
    w = Cast <to = 1> (y)
}
"""

MASK = """
mask (bool[n] hidden, float[n] x) => (float[n] y)
<float lowest = {-3.4028234663852886e38}, float zero = {0}>
{
    added = Where (hidden, lowest, zero)
    y = Add (x, added)
}
"""

TIED = """
tied (int64[n] ids) => (float[n, 3] logits)
<float[3, 2] table = {1, 2, 3, 4, 5, 6}, float[2, 3] head = {1, 3, 5, 2, 4, 6}>
{
    hidden = Gather (table, ids)
    logits = MatMul (hidden, head)
}
"""

LINEAR = """
linear (float[n, 2] x) => (float[n, 2] y)
<float[2, 2] folded = {1, 2, 3, 4}>
{
    y = MatMul (x, folded)
}
"""


def read(text: str) -> ir.Model:
    model = ir.from_proto(onnx.parser.parse_model(HEADER + text))
    onnx.checker.check_model(ir.to_proto(model))
    return passes.common.ShapeInferencePass()(model).model


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in passes.common.RemoveUnusedNodesPass()(model).model.graph]


def run(model: ir.Model, **feeds: NDArray[Any]) -> list[NDArray[Any]]:
    return [np.asarray(result) for result in ReferenceEvaluator(ir.to_proto(model)).run(None, feeds)]


def floats(*shape: int) -> NDArray[np.float32]:
    return RANDOM.normal(0, 1, shape).astype(np.float32)


@pytest.mark.parametrize(
    "spelling",
    [
        RMS_NORM,
        RMS_NORM.replace("Pow (x, two)", "Mul (x, x)"),
        RMS_NORM.replace("Div (one, root)", "Reciprocal (root)"),
        RMS_NORM.replace("Mul (weight, normalised)", "Mul (normalised, weight)"),
        RMS_NORM.replace("Mul (x, inverse)", "Mul (inverse, x)"),
        RMS_NORM.replace("Add (mean, eps)", "Add (eps, mean)"),
        RMS_NORM.replace("<keepdims = 1> ", ""),
    ],
)
def test_a_decomposed_rms_norm_becomes_one_operator(spelling: str) -> None:
    x = floats(5, 4)
    (before,) = run(read(spelling), x=x)
    model = read(spelling)
    assert FuseRmsNormPass()(model).modified
    assert operators(model) == ["RMSNormalization"]
    model.opset_imports[""] = HUB_OPSET
    onnx.checker.check_model(ir.to_proto(model))
    (after,) = run(model, x=x)
    np.testing.assert_allclose(after, before, atol=1e-6)
    assert not FuseRmsNormPass()(model).modified


@pytest.mark.parametrize(
    ("what", "instead"),
    [
        ("float two = {2}", "float two = {3}"),
        ("float one = {1}", "float one = {2}"),
        ("int64[1] last = {-1}", "int64[1] last = {0}"),
        ("Pow (x, two)", "Mul (x, weight)"),
        ("Mul (x, inverse)", "Mul (square, inverse)"),
        ("Mul (x, inverse)", "Add (x, inverse)"),
        ("Sqrt (shifted)", "Exp (shifted)"),
        ("Add (mean, eps)", "Add (mean, x)"),
        ("y = Mul (weight, normalised)", "y = Mul (x, normalised)"),
        ("y = Mul (weight, normalised)", "y = Mul (weight, x)"),
    ],
)
def test_what_only_resembles_an_rms_norm_stays(what: str, instead: str) -> None:
    assert what in RMS_NORM
    model = read(RMS_NORM.replace(what, instead))
    before = operators(model)
    assert not FuseRmsNormPass()(model).modified
    assert operators(model) == before


def test_a_cast_to_the_same_type_goes_and_others_stay() -> None:
    x = floats(6)
    before = run(read(CASTS), x=x)
    model = read(CASTS)
    assert RemoveSameTypeCastPass()(model).modified
    assert operators(model) == ["Neg", "Cast", "Cast"]
    for old, new in zip(before, run(model, x=x), strict=True):
        assert np.array_equal(old, new)
    assert [output.name for output in model.graph.outputs] == ["y", "z", "w"]
    assert not RemoveSameTypeCastPass()(model).modified


def test_an_infinite_mask_becomes_finite() -> None:
    hidden, x = np.array([True, False, True]), floats(3)
    model = read(MASK)
    assert FiniteMaskPass()(model).modified
    assert operators(model) == ["Where", "Add"]
    (after,) = run(model, hidden=hidden, x=x)
    np.testing.assert_array_equal(after, np.where(hidden, np.float32(FINITE_MASK) + x, x))
    assert not FiniteMaskPass()(model).modified


def test_every_entry_of_a_mask_table_becomes_finite() -> None:
    model = read(MASK.replace("float lowest = {-3.4028234663852886e38}", "float[3] lowest = {-3.4e38, -2.0, -70000.0}"))
    model.graph.initializers["lowest"].const_value = ir.tensor(np.array([-np.inf, -2, -70000], np.float32))
    assert FiniteMaskPass()(model).modified
    (after,) = run(model, hidden=np.array([True, True, True]), x=np.zeros(3, np.float32))
    assert np.asarray(after).tolist() == [FINITE_MASK, -2.0, FINITE_MASK]


@pytest.mark.parametrize("lowest", ["-65504.0", "-10000.0", "3.4e38"])
def test_a_mask_that_is_finite_already_stays(lowest: str) -> None:
    assert not FiniteMaskPass()(read(MASK.replace("-3.4028234663852886e38", lowest))).modified


def test_a_head_equal_to_the_table_is_stored_once() -> None:
    ids = np.array([2, 0])
    (before,) = run(read(TIED), ids=ids)
    model = read(TIED)
    assert TieEmbeddingPass()(model).modified
    assert operators(model) == ["Gather", "Transpose", "MatMul"]
    assert list(model.graph.initializers) == ["table"]
    assert np.array_equal(run(model, ids=ids)[0], before)
    assert not TieEmbeddingPass()(model).modified


@pytest.mark.parametrize("head", ["1, 3, 5, 2, 4, 7", "1, 2, 3, 4, 5, 6"])
def test_an_untied_head_stays(head: str) -> None:
    model = read(TIED.replace("1, 3, 5, 2, 4, 6", head))
    assert not TieEmbeddingPass()(model).modified
    assert list(model.graph.initializers) == ["table", "head"]


def test_a_weight_is_named_after_its_module() -> None:
    model = read(LINEAR)
    model.graph[0].name = "/model/layers.0/mlp/up_proj/MatMul"
    assert NameWeightsPass()(model).modified
    assert list(model.graph.initializers) == ["model.layers.0.mlp.up_proj.weight_transposed"]
    x = floats(3, 2)
    np.testing.assert_allclose(run(model, x=x)[0], x @ np.array([[1, 2], [3, 4]], np.float32), rtol=1e-6)
    assert not NameWeightsPass()(model).modified


@pytest.mark.parametrize("name", ["MatMul_3", "/model/layers.0/Add", None])
def test_a_matmul_without_a_scope_keeps_its_weight_name(name: str | None) -> None:
    model = read(LINEAR)
    model.graph[0].name = name
    assert not NameWeightsPass()(model).modified
    assert list(model.graph.initializers) == ["folded"]


def test_the_opset_is_raised_once() -> None:
    hidden, x = np.array([True, False]), floats(2)
    model = read(MASK)
    (before,) = run(model, hidden=hidden, x=x)
    assert RaiseOpsetPass()(model).modified
    assert model.opset_imports[""] == HUB_OPSET
    assert np.array_equal(run(model, hidden=hidden, x=x)[0], before)
    assert not RaiseOpsetPass()(model).modified


def test_an_export_that_stays_at_its_opset_is_refused() -> None:
    with pytest.raises(StageFailed, match="stayed at opset 18 instead of 23"):
        RaiseOpsetPass().ensures(read(MASK))
