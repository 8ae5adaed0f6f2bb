from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from quantize.nncf_backend import quantize_weights
from quantize.scheme import known_schemes, parse_scheme
from targets.errors import StageFailed
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
    quantized = quantize_weights(WEIGHTS, scheme)
    assert list(quantized) == list(WEIGHTS)
    for key, weight in quantized.items():
        original, stored = WEIGHTS[key], weight.stored_codes()
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
    found = quantize_weights({"w": weight}, parse_scheme(name))["w"]
    sizes = np.abs(found.scales)
    assert np.allclose(sizes[0], sizes[1, 0])
    assert sizes[1, 1] == pytest.approx(100 * sizes[1, 0], rel=1e-3)
    np.testing.assert_allclose(found.dequantize(), weight, rtol=0.15)


def test_batches_do_not_matter() -> None:
    scheme = parse_scheme("w4-asym-g64")
    together = quantize_weights(WEIGHTS, scheme)
    for name, array in WEIGHTS.items():
        assert quantize_weights({name: array}, scheme)[name].digest() == together[name].digest()


def test_a_weight_nncf_leaves_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import nncf

    untouched = SimpleNamespace(graph=SimpleNamespace(initializer=[SimpleNamespace(name="centred")]))
    monkeypatch.setattr(nncf, "compress_weights", lambda *_, **__: untouched)
    with pytest.raises(StageFailed, match="NNCF left centred unquantized in scheme w4-sym-g64"):
        quantize_weights(WEIGHTS, parse_scheme("w4-sym-g64"))
