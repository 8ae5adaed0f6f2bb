"""The KV cache's precision: what it costs at long context, what it saves, and whether the figures are of what runs."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from compile.backends import find_backend
from compile.kv_cache import LEVELS, MARGIN, cache_scales, reach
from compile.package import Package
from export.catalog import CATALOG, fetch
from export.hub import OnnxModel, export_hub, open_hub
from export.model import import_model
from export.source import CatalogName
from quantize.quantizer import QuantizedModel, quantize_model
from targets.errors import UsageError
from tests.conftest import Packages, QuantizedVariants
from tests.tiny_build import GOLDEN
from validate.golden import LONG, Golden, measure_golden
from validate.kv_cache import KvCache, long_divergence, measure_kv_cache, onnxruntime_session
from validate.onnx_cache import with_float_cache
from validate.onnxruntime_runtime import OnnxRuntime
from validate.openvino_runtime import OpenVino
from validate.plans import GoldenPlan
from validate.runtime import DEPLOYED, find_runtime
from validate.vehicle_session import HubStepping

PLAN = dataclasses.replace(GOLDEN, long_tokens=96, long_after=64)
DOWNLOADS = Path(__file__).resolve().parents[1] / "artifacts" / ".downloads"


def ignore(done: int, total: int) -> None:
    assert 0 <= done <= total


@pytest.fixture(scope="module")
def golden(tiny_hub: OnnxModel, new_folder: Callable[[str], Path]) -> Golden:
    return measure_golden(tiny_hub, PLAN, new_folder("golden"), ignore)


@pytest.fixture(scope="module")
def quantized(quantized_variants: QuantizedVariants) -> QuantizedModel:
    return quantized_variants["llama", "w8-sym"]


@pytest.fixture(scope="module")
def eight_bits(quantized: QuantizedModel, new_folder: Callable[[str], Path]) -> Package:
    return find_backend("onnxruntime").compile_package(quantized, {"kv_cache": "int8"}, new_folder("int8"))


def test_the_long_text_has_a_reference_for_its_end_only(golden: Golden) -> None:
    long = golden.long()
    assert long is not None
    assert golden.long_positions == 32
    tokens, reference = long
    assert (len(tokens), reference.ids.shape) == (96, (32, PLAN.top + PLAN.sampled))
    assert list(reference.targets) == [*tokens[65:], -1]


def test_the_long_reference_is_the_float_models(tiny_hub: OnnxModel, golden: Golden) -> None:
    from validate.fidelity import score_window

    long = golden.long()
    assert long is not None
    tokens, reference = long
    logits = open_hub(tiny_hub).step(tokens[None])[0]
    assert abs(score_window(reference, logits[64:], 0).kl.mean()) < 1e-6
    assert score_window(reference, logits[63:-1], 0).kl.mean() > 1e-3  # one position off is seen


def test_a_text_read_in_pieces_has_the_same_reference(
    tiny_hub: OnnxModel, golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces that end within the part that is compared, before it, and at neither's end."""
    monkeypatch.setattr("validate.golden.STEP", 7)
    monkeypatch.setattr("validate.fidelity.ROWS", 3)
    again = measure_golden(tiny_hub, PLAN, tmp_path, ignore)
    long, same = golden.long(), again.long()
    assert long is not None
    assert same is not None
    for (tokens, one), (others, other) in [*zip(golden.windows(), again.windows(), strict=True), (long, same)]:
        assert np.array_equal(tokens, others)
        assert np.array_equal(one.targets, other.targets)
        assert np.allclose(one.target_log_probs, other.target_log_probs, atol=1e-4)
        assert np.allclose(one.log_probs[:, 0], other.log_probs[:, 0], atol=1e-4)


def test_a_context_read_in_pieces_gives_the_same_divergence(
    tiny_hub: OnnxModel, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = golden.long()
    assert long is not None
    tokens, reference = long
    shifted = dataclasses.replace(reference, log_probs=np.roll(reference.log_probs, 1, axis=0))  # so that it is not 0
    session = HubStepping(open_hub(tiny_hub))
    whole = long_divergence(session, tokens, shifted)
    monkeypatch.setattr("validate.windows.STEP", 5)
    monkeypatch.setattr("validate.kv_cache.STEP", 5)
    assert long_divergence(session, tokens, shifted) == pytest.approx(whole, abs=1e-5)
    assert abs(whole) > 1e-3


@pytest.mark.parametrize(
    ("changes", "positions"),
    [({"long_tokens": 0}, 0), ({"long_after": 128}, 0), ({"long_tokens": 4096}, 128 - 64)],
    ids=["turned off", "no room", "cut to the context"],
)
def test_the_long_text_fits_the_model(
    tiny_hub: OnnxModel, tmp_path: Path, changes: dict[str, int], positions: int
) -> None:
    found = measure_golden(tiny_hub, dataclasses.replace(PLAN, **changes), tmp_path, ignore)
    assert found.long_positions == positions
    assert (tmp_path / LONG).exists() == bool(positions)
    assert (found.long() is None) == (positions == 0)


def test_openvino_is_measured_at_every_precision(tiny_packages: Packages, golden: Golden) -> None:
    package = tiny_packages["llama", "w8-sym", "openvino"]
    assert package.settings["KV_CACHE_PRECISION"] == "u8"
    found = measure_kv_cache(OpenVino(), package, golden, ignore, also=("u4",))
    assert found is not None
    assert [row.precision for row in found.rows] == ["f16", "u8", "u4"]
    assert (found.baseline, found.shipped.precision, found.positions, found.after) == ("f16", "u8", 32, 64)
    # 2 layers, keys and values, 2 heads of 16: the codes, and a float32 scale and zero point beside each head's.
    assert [row.bytes_per_token for row in found.rows] == [8 * 32, 8 * (16 + 8), 8 * (8 + 8)]
    assert found.saving == 1 - 24 / 32
    costs = [row.kl_cost for row in found.rows]
    assert costs[0] == 0
    assert costs[2] is not None
    assert costs[1] is not None
    assert costs[2] > abs(costs[1])


def test_a_precision_the_plugin_lacks_is_refused(tiny_packages: Packages, golden: Golden) -> None:
    with pytest.raises(UsageError, match="unknown KV cache precision 'u16'"):
        measure_kv_cache(OpenVino(), tiny_packages["llama", "w8-sym", "openvino"], golden, ignore, also=("u16",))


def test_openvino_runs_the_precision_that_is_named(tiny_packages: Packages) -> None:
    import openvino as ov

    package = tiny_packages["llama", "w8-sym", "openvino"]
    for precision in ("f16", "u8", "u4"):
        settings = {"KV_CACHE_PRECISION": precision}
        compiled = ov.Core().compile_model(package.folder / "openvino_model.xml", "CPU", settings)
        assert compiled.get_property("KV_CACHE_PRECISION").get_type_name() == precision


def test_a_float32_cache_is_counted_without_running(tiny_packages: Packages, golden: Golden) -> None:
    found = measure_kv_cache(OnnxRuntime(), tiny_packages["llama", "w8-sym", "onnxruntime"], golden, ignore)
    assert found is not None
    assert [(row.precision, row.kl_mean, row.ships) for row in found.rows] == [("float32", None, True)]
    assert (found.saving, found.positions, found.bytes_per_token_16bit) == (-1.0, 0, 256)


def test_onnxruntime_stores_int8(eight_bits: Package, golden: Golden) -> None:
    found = measure_kv_cache(OnnxRuntime(), eight_bits, golden, ignore)
    assert found is not None
    assert [row.precision for row in found.rows] == ["float32", "int8"]
    assert [row.bytes_per_token for row in found.rows] == [512, 128]
    assert (found.baseline, found.saving, found.shipped.precision) == ("float32", 0.5, "int8")
    assert found.rows[1].kl_cost is not None
    assert 0 < abs(found.rows[1].kl_cost) < 0.005
    assert eight_bits.checks["attentions_fused"] == 2


def test_the_float_cache_is_the_package_without_the_option(
    eight_bits: Package, tiny_packages: Packages, golden: Golden
) -> None:
    long = golden.long()
    assert long is not None
    tokens, _ = long
    plain = onnxruntime_session(tiny_packages["llama", "w8-sym", "onnxruntime"].folder, 96).step(tokens)
    assert np.array_equal(onnxruntime_session(eight_bits.folder, 96, (with_float_cache,)).step(tokens), plain)
    assert not np.array_equal(onnxruntime_session(eight_bits.folder, 96).step(tokens), plain)


def test_a_product_generates_and_rewinds_with_an_int8_cache(eight_bits: Package) -> None:
    pipeline = OnnxRuntime().pipeline(eight_bits.folder, eight_bits.settings)
    assert len(pipeline.generate(range(5, 25), 8, stop=False).tokens) == 8
    tokens = np.arange(5, 37, dtype=np.int64)
    session = OnnxRuntime().session(eight_bits.folder, eight_bits.settings, DEPLOYED)
    once = session.step(tokens)
    session.rewind(16)
    assert np.allclose(session.step(tokens[16:]), once[16:], atol=1e-4)


def test_only_the_cache_is_undone(eight_bits: Package, tiny_packages: Packages) -> None:
    written = (eight_bits.folder / "model.onnx").read_bytes()
    undone = onnx.load_from_string(with_float_cache(written))
    (plain,) = (tiny_packages["llama", "w8-sym", "onnxruntime"].folder / "model.onnx",)
    expected = onnx.load(plain, load_external_data=False)
    assert [node.op_type for node in undone.graph.node] == [node.op_type for node in expected.graph.node]
    for ours, theirs in zip(undone.graph.node, expected.graph.node, strict=True):
        assert {a.name for a in ours.attribute} == {a.name for a in theirs.attribute}
    types = {v.name: v.type.tensor_type.elem_type for v in (*undone.graph.input, *undone.graph.output)}
    assert {types[name] for name in types if "key" in name or "value" in name} == {onnx.TensorProto.FLOAT}
    assert with_float_cache(plain.read_bytes()) == plain.read_bytes()


def test_scales_hold_whatever_the_rotation(quantized: QuantizedModel) -> None:
    angles = np.linspace(0, np.pi, 64, dtype=np.float32)
    pair = np.stack([3 * np.cos(angles), 3 * np.sin(angles)], -1)[None, None]
    assert np.allclose(reach(pair[:, :, :1], is_key=True), 3)
    assert np.allclose(reach(pair[:, :, :1], is_key=False), [3, 0])
    scales = cache_scales(quantized)
    assert sorted(scales) == sorted(
        f"past_key_values.{layer}.{kind}" for layer in range(2) for kind in ("key", "value")
    )
    key = scales["past_key_values.0.key"]
    assert key.shape == (1, 2, 1, 16)
    assert key.dtype == np.float32
    assert np.array_equal(key[..., :8], key[..., 8:])


def test_nothing_is_clipped_on_the_golden_text(quantized: QuantizedModel, golden: Golden) -> None:
    from export.parity import HubSession

    long = golden.long()
    assert long is not None
    session = HubSession(quantized.graph, quantized.facts)
    session.step(long[0][None])
    scales = cache_scales(quantized)
    clipped = [np.mean(np.abs(session.past[name]) > LEVELS * scale) for name, scale in scales.items()]
    assert MARGIN > 1
    assert max(clipped) < 0.01


def test_another_cache_is_refused(quantized: QuantizedModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown KV cache 'int9'") as refused:
        find_backend("onnxruntime").compile_package(quantized, {"kv_cache": "int9"}, tmp_path)
    assert "int8" in (refused.value.help or "")


def test_a_package_that_does_not_say_is_not_measured(tiny_packages: Packages, golden: Golden) -> None:
    package = dataclasses.replace(tiny_packages["llama", "w8-sym", "openvino"], settings={})
    assert measure_kv_cache(OpenVino(), package, golden, ignore) is None
    assert measure_kv_cache(OpenVino(), package, dataclasses.replace(golden, long_positions=0), ignore) is None


@pytest.mark.deep
@pytest.mark.truth
def test_eight_bits_save_two_fifths_of_sixteen_and_cost_little(new_folder: Callable[[str], Path]) -> None:
    fetch(CATALOG["smollm2-135m"], DOWNLOADS)
    hub = export_hub(import_model(CatalogName("smollm2-135m"), new_folder("smollm2"), DOWNLOADS), new_folder("hub"))
    golden = measure_golden(hub, GoldenPlan(windows=1, prompts=0), new_folder("golden"), ignore)
    assert (golden.long_positions, golden.plan.long_after) == (512, 1024)
    quantized = quantize_model(hub, "w8-sym", new_folder("quantized"), lambda done, total: None)
    for backend, options, most in (("openvino", {}, 12960), ("onnxruntime", {"kv_cache": "int8"}, 11520)):
        package = find_backend(backend).compile_package(quantized, options, new_folder(backend))
        found = measured(package, golden)
        assert (found.bytes_per_token_16bit, found.shipped.bytes_per_token) == (23040, most)
        assert found.saving >= 0.40
        assert found.shipped.kl_cost is not None
        assert found.shipped.kl_cost <= 0.005


def measured(package: Package, golden: Golden) -> KvCache:
    runtime = find_runtime(package.backend)
    assert runtime is not None
    found = measure_kv_cache(runtime, package, golden, ignore)
    assert found is not None
    return found
