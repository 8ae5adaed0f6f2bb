import numpy as np
import pytest
from numpy.typing import NDArray

from quantize.nearest import quantize_weight
from quantize.scheme import known_schemes, parse_scheme
from targets.legality import CHANNEL_WISE

RANDOM = np.random.default_rng(4)
WEIGHTS: dict[str, NDArray[np.float32]] = {
    "centred": RANDOM.normal(0, 0.1, (24, 768)).astype(np.float32),
    "positive": RANDOM.uniform(0.3, 1, (8, 768)).astype(np.float32),
    "empty": np.zeros((4, 768), np.float32),
}


@pytest.mark.parametrize("name", known_schemes())
def test_every_weight_lands_on_the_grid(name: str) -> None:
    scheme = parse_scheme(name)
    half = 1 << (scheme.bits - 1)
    for original in WEIGHTS.values():
        weight = quantize_weight(original, scheme)
        stored = weight.stored_codes()
        groups = 1 if scheme.group_size == CHANNEL_WISE else 768 // scheme.group_size
        assert (weight.bits, weight.codes.shape) == (scheme.bits, original.shape)
        assert weight.scales.shape == (original.shape[0], groups)
        assert (weight.zero_points is None) == scheme.symmetric
        low, high = (-half, half - 1) if scheme.symmetric else (0, 2 * half - 1)
        assert low <= stored.min() <= stored.max() <= high
        steps = np.abs(weight.dequantize() - original) / np.abs(np.repeat(weight.scales, weight.group_size, axis=1))
        # A symmetric grid has one code more below zero than above: what would need it above is cut off.
        cut = (stored == high) & scheme.symmetric
        assert np.where(cut, 0, steps).max() <= 0.5001
        assert steps.max() <= 1.0001


@pytest.mark.parametrize("name", ["w4-sym-g64", "w4-asym-g64"])
def test_each_group_has_a_scale_of_its_own(name: str) -> None:
    weight = np.full((2, 128), 0.01, np.float32)
    weight[:, ::2] *= -1
    weight[1, 64:] *= 100
    found = quantize_weight(weight, parse_scheme(name))
    sizes = np.abs(found.scales)
    assert np.allclose(sizes[0], sizes[1, 0])
    assert sizes[1, 1] == pytest.approx(100 * sizes[1, 0], rel=1e-3)
    np.testing.assert_allclose(found.dequantize(), weight, rtol=0.15)


@pytest.mark.parametrize("name", known_schemes())
def test_the_rounding_is_that_of_nncf_compress_weights(name: str) -> None:
    import nncf
    import onnx
    from onnx import helper, numpy_helper

    scheme, weight = parse_scheme(name), WEIGHTS["centred"]
    sizes = {"x": weight.shape[1], "y": weight.shape[0]}
    x, y = (helper.make_tensor_value_info(at, onnx.TensorProto.FLOAT, [1, size]) for at, size in sizes.items())
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([product], "one", [x], [y], [numpy_helper.from_array(weight.T.copy(), "w")])
    four = {"group_size": scheme.group_size, "ratio": 1.0, "all_layers": True} if scheme.bits == 4 else {}
    compressed = nncf.compress_weights(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]),
        mode=nncf.CompressWeightsMode[f"INT{scheme.bits}_{'SYM' if scheme.symmetric else 'ASYM'}"],
        **four,
    )
    stored = {each.name: numpy_helper.to_array(each) for each in compressed.graph.initializer}
    ours = quantize_weight(weight, scheme)
    assert np.array_equal(ours.stored_codes(), stored["w_quantized"].T.astype(np.int16))
    assert np.array_equal(ours.scales, np.atleast_2d(stored["w_scale"]).T)
