from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.hub_weights import CODE_TYPES, WeightUse, add_initializer, read_weight, replace_weight
from quantize.weight import QuantizedWeight, digest_weights
from targets.errors import StageFailed


@st.composite
def weights(draw: st.DrawFn, group_sizes: tuple[int, ...] = (2, 6, 16, 32, 64)) -> QuantizedWeight:
    """A weight of any width, symmetry and grouping, every code possible."""
    bits, symmetric = draw(st.sampled_from((4, 8))), draw(st.booleans())
    groups, group_size, rows = draw(st.integers(1, 5)), draw(st.sampled_from(group_sizes)), draw(st.integers(1, 7))
    random = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    half = 1 << (bits - 1)
    stored = random.integers(-half, half, (rows, groups * group_size)).astype(np.int16)
    scales = random.normal(0, 1, (rows, groups)).astype(np.float32)
    if symmetric:
        return QuantizedWeight(stored, scales, None, bits)
    zero_points = random.integers(0, 2 * half, (rows, groups)).astype(np.int16)
    codes = stored + half - np.repeat(zero_points, group_size, axis=1)
    return QuantizedWeight(codes, scales, zero_points, bits)


def in_a_hub(weight: QuantizedWeight, linear: bool) -> ir.Model:
    """A graph of one MatMul or Gather, its weight replaced by `weight`."""
    rows, columns = weight.codes.shape
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 23}, name="hub")
    stored = np.zeros((columns, rows) if linear else (rows, columns), np.float32)
    value = add_initializer(graph, "layer.weight", stored)
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT if linear else ir.DataType.INT64))
    x.shape = ir.Shape([1, columns] if linear else [1])
    node = ir.node("MatMul" if linear else "Gather", [x, value] if linear else [value, x], name="read")
    node.outputs[0].name, node.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    node.outputs[0].shape = ir.Shape([1, rows] if linear else [1, columns])
    graph.inputs.append(x)
    graph.append(node)
    graph.outputs.append(node.outputs[0])
    model = ir.Model(graph, ir_version=11)
    replace_weight(model, WeightUse("layer.weight", value, linear, not linear, value), weight)
    return model


@given(weights())
def test_codes_and_scales_are_the_weight(weight: QuantizedWeight) -> None:
    stored, half = weight.stored_codes(), 1 << (weight.bits - 1)
    low = 0 if weight.zero_points is not None else -half
    assert low <= stored.min()
    assert stored.max() < low + 2 * half
    for row in range(stored.shape[0]):
        for column in range(0, stored.shape[1], 5):
            group = column // weight.group_size
            zero = 0 if weight.zero_points is None else int(weight.zero_points[row, group])
            expected = np.float32(int(stored[row, column]) - zero) * weight.scales[row, group]
            assert weight.dequantize()[row, column] == expected
    assert weight.dequantize().dtype == np.float32


@given(weights(), st.booleans())
def test_a_weight_survives_the_hub(weight: QuantizedWeight, linear: bool) -> None:
    model = in_a_hub(weight, linear)
    found = next(node for node in model.graph if node.op_type == "DequantizeLinear")
    again = read_weight(found)
    assert again.digest() == weight.digest()
    assert np.array_equal(again.codes, weight.codes)
    assert np.array_equal(again.scales, weight.scales)
    assert (again.bits, again.zero_points is None) == (weight.bits, weight.zero_points is None)
    codes = found.inputs[0]
    assert codes is not None
    assert codes.const_value is not None
    assert codes.const_value.numpy().dtype == CODE_TYPES[weight.bits, weight.zero_points is None]


@given(weights(), st.booleans())
def test_onnx_dequantizes_as_we_do(weight: QuantizedWeight, linear: bool) -> None:
    from onnx.reference import ReferenceEvaluator

    rows, columns = weight.codes.shape
    x = np.eye(1, columns, 1, dtype=np.float32) if linear else np.array([rows - 1])
    feeds: dict[str, Any] = {"x": x}
    (y,) = ReferenceEvaluator(ir.to_proto(in_a_hub(weight, linear))).run(None, feeds)
    expected = x @ weight.dequantize().T if linear else weight.dequantize()[x]
    np.testing.assert_allclose(np.asarray(y), expected, rtol=1e-6, atol=1e-6)


@given(weights(), st.data())
def test_a_digest_changes_with_every_number(weight: QuantizedWeight, data: st.DataObject) -> None:
    row = data.draw(st.integers(0, weight.codes.shape[0] - 1))
    column = data.draw(st.integers(0, weight.codes.shape[1] - 1))
    codes, scales = weight.codes.copy(), weight.scales.copy()
    codes[row, column] += 1
    scales[row, column // weight.group_size] *= np.float32(1.0000002)
    digests = {
        weight.digest(),
        QuantizedWeight(codes, weight.scales, weight.zero_points, weight.bits).digest(),
        QuantizedWeight(weight.codes, scales, weight.zero_points, weight.bits).digest(),
        QuantizedWeight(weight.codes, weight.scales, weight.zero_points, 12 - weight.bits).digest(),
    }
    assert len(digests) == 4


@given(weights())
def test_a_digest_does_not_see_the_layout(weight: QuantizedWeight) -> None:
    columns = QuantizedWeight(np.asfortranarray(weight.codes), np.asfortranarray(weight.scales), None, weight.bits)
    assert columns.digest() == weight.digest()
    one = QuantizedWeight(weight.codes, weight.scales[:, :1], None, weight.bits)
    repeated = QuantizedWeight(weight.codes, np.repeat(weight.scales[:, :1], 2, axis=1), None, weight.bits)
    assert repeated.digest() == one.digest()


def test_a_digest_of_weights_sees_names_and_not_their_order() -> None:
    assert digest_weights({"a": "1", "b": "2"}) == digest_weights({"b": "2", "a": "1"})
    assert digest_weights({"a": "1", "b": "2"}) != digest_weights({"a": "2", "b": "1"})


def test_a_weight_without_numbers_is_refused() -> None:
    value = ir.Value(name="w")
    with pytest.raises(StageFailed, match="w has no data"):
        WeightUse("w", value, linear=True, embedding=False, stored=value).array()
    dequantize = ir.node("DequantizeLinear", [ir.Value(name="c"), ir.Value(name="s")], name="w/DequantizeLinear")
    with pytest.raises(StageFailed, match="dequantizes something that is not stored"):
        read_weight(dequantize)
