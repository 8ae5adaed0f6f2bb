import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from compile.matmul_nbits import HEAD_BLOCKS, Blocks, concatenate, from_blocks, pack, to_blocks, unpack
from quantize.weight import QuantizedWeight
from targets.errors import StageFailed
from tests.test_quantize_weight import weights

MATRICES = array_shapes(min_dims=2, max_dims=2, max_side=9)
BLOCK_WEIGHTS = weights(group_sizes=(16, 32, 64, 128, 256))


@given(arrays(np.uint8, MATRICES, elements=st.integers(0, 15)))
def test_four_bits_are_packed_low_nibble_first(values: np.ndarray) -> None:
    packed = pack(values, 4)
    assert packed.dtype == np.uint8
    assert packed.shape == (values.shape[0], (values.shape[1] + 1) // 2)
    assert np.array_equal(packed[:, 0] & 15, values[:, 0])
    again = unpack(packed, 4)
    assert np.array_equal(again[:, : values.shape[1]], values)
    assert not again[:, values.shape[1] :].any()


@given(arrays(np.uint8, MATRICES))
def test_eight_bits_are_not_packed(values: np.ndarray) -> None:
    assert pack(values, 8) is values
    assert unpack(values, 8) is values


@given(BLOCK_WEIGHTS)
def test_blocks_hold_the_weight(weight: QuantizedWeight) -> None:
    blocks = to_blocks(weight)
    rows, columns = weight.codes.shape
    count = columns // blocks.block_size
    assert blocks.codes.shape == (rows, count, blocks.block_size * weight.bits // 8)
    assert blocks.scales.shape == (rows, count)
    assert blocks.codes.dtype == np.uint8
    assert blocks.in_channels == columns
    if blocks.zero_points is not None:
        assert blocks.zero_points.shape == (rows, -(-count * weight.bits // 8))
    channel_wise = weight.scales.shape[1] == 1
    assert blocks.block_size == (min(32, columns) if channel_wise else weight.group_size)
    again = from_blocks(blocks)
    assert np.array_equal(again.codes, weight.codes)
    assert np.array_equal(again.dequantize(), weight.dequantize())
    assert again.digest() == weight.digest()


@given(BLOCK_WEIGHTS)
def test_onnx_runtime_multiplies_by_the_weight(weight: QuantizedWeight) -> None:
    x = np.random.default_rng(0).normal(0, 1, (3, weight.codes.shape[1])).astype(np.float32)
    expected = x @ weight.dequantize().T
    np.testing.assert_allclose(multiply(x, to_blocks(weight)), expected, atol=1e-4 * np.abs(expected).max())


def multiply(x: np.ndarray, blocks: Blocks) -> np.ndarray:
    """`x` [n, in] times the weight, by ONNX Runtime in float32."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    stored: dict[str, np.ndarray] = {"codes": blocks.codes, "scales": blocks.scales}
    if blocks.zero_points is not None:
        stored["zero_points"] = blocks.zero_points
    sizes = {"K": blocks.in_channels, "N": blocks.codes.shape[0], "bits": blocks.bits, "block_size": blocks.block_size}
    node = helper.make_node("MatMulNBits", ["x", *stored], ["y"], domain="com.microsoft", accuracy_level=1, **sizes)
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", blocks.in_channels])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", blocks.codes.shape[0]])],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=11).SerializeToString()
    (y,) = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    return np.asarray(y)


@given(BLOCK_WEIGHTS, st.data())
def test_a_changed_byte_changes_the_digest(weight: QuantizedWeight, data: st.DataObject) -> None:
    blocks = to_blocks(weight)
    codes = blocks.codes.copy()
    place = data.draw(st.integers(0, codes.size - 1))
    codes.flat[place] ^= np.uint8(data.draw(st.sampled_from((1, 16, 128))))
    changed = Blocks(codes, blocks.scales, blocks.zero_points, blocks.bits, blocks.block_size)
    assert from_blocks(changed).digest() != weight.digest()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zero_point", [None, 3])
def test_joined_weights_come_apart_by_rows(bits: int, zero_point: int | None) -> None:
    random = np.random.default_rng(1)
    parts = []
    for rows in (5, 2, 3):
        zero_points = None if zero_point is None else np.full((rows, 3), zero_point, np.int16)
        parts.append(QuantizedWeight(random.integers(-3, 4, (rows, 96)).astype(np.int16),
                                     random.normal(0, 1, (rows, 3)).astype(np.float32), zero_points, bits))  # fmt: skip
    whole = from_blocks(concatenate([to_blocks(part) for part in parts]))
    assert np.array_equal(whole.codes, np.concatenate([part.codes for part in parts]))
    assert np.array_equal(whole.scales, np.concatenate([part.scales for part in parts]))
    assert (whole.zero_points is None) == (zero_point is None)


@pytest.mark.parametrize(("in_channels", "block_size", "head"), [(576, 32, 64), (96, 32, 32), (48, 16, 16)])
def test_a_channel_is_cut_into_blocks_that_divide_it(in_channels: int, block_size: int, head: int) -> None:
    weight = QuantizedWeight(np.ones((2, in_channels), np.int16), np.ones((2, 1), np.float32), None, 8)
    assert to_blocks(weight).block_size == block_size
    assert to_blocks(weight, HEAD_BLOCKS).block_size == head


@pytest.mark.parametrize(
    ("in_channels", "groups", "said"), [(40, 1, "one scale"), (192, 2, "groups of 96"), (32, 4, "groups of 8")]
)
def test_what_no_block_size_fits_is_refused(in_channels: int, groups: int, said: str) -> None:
    weight = QuantizedWeight(np.ones((2, in_channels), np.int16), np.ones((2, groups), np.float32), None, 4)
    with pytest.raises(StageFailed, match=f"no block size for {in_channels} input channels with .*{said}"):
        to_blocks(weight)
