"""The package for Intel GPUs: the CPU package's weights, float16 settings, and a look at whether float16 holds them."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compile import openvino_gpu_range
from compile.openvino_gpu_backend import MANIFEST, SETTINGS, OpenVinoGpuBackend
from compile.openvino_gpu_range import largest_activation
from compile.package import Package
from export.parity import HubSession
from quantize.quantizer import QuantizedModel
from targets.errors import DeviceMissing, StageFailed
from targets.status import Status
from tests.conftest import Packages, Quantized
from validate.openvino_gpu_runtime import OpenVinoGpu
from validate.runtime import DEPLOYED, WEIGHTS

TOKENS = np.arange(3, 35, dtype=np.int64)


@pytest.fixture(scope="module")
def has_gpu() -> bool:
    import openvino as ov

    return any(name.startswith("GPU") for name in ov.Core().available_devices)


@pytest.fixture(scope="module")
def package(tiny_quantized: Quantized, tmp_path_factory: pytest.TempPathFactory) -> Package:
    return OpenVinoGpuBackend().compile_package(tiny_quantized["w4-sym-g32"], {}, tmp_path_factory.mktemp("gpu"))


def test_it_holds_the_weights_of_the_cpu_package_in_projections_of_their_own(
    package: Package, tiny_packages: Packages
) -> None:
    cpu = tiny_packages["llama", "w4-sym-g32", "openvino"]
    assert package.weights_digest == cpu.weights_digest
    assert package.checks["quantized_weights"] == cpu.checks["quantized_weights"]
    assert package.checks["quantized_matmuls"] > cpu.checks["quantized_matmuls"]


def test_it_asks_for_float16_and_for_nothing_in_int8(package: Package) -> None:
    assert package.settings == SETTINGS
    assert package.settings["INFERENCE_PRECISION_HINT"] == "f16"
    assert package.settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] == "0"
    assert json.loads((package.folder / MANIFEST).read_text())["settings"] == package.settings


def test_it_is_compiled_only_where_a_gpu_is(package: Package, has_gpu: bool) -> None:
    assert package.evidence == ((Status.COMPILED if has_gpu else Status.PREPARED),)
    assert ("compiled_for" in package.requires) is has_gpu
    assert package.next_step is not None
    for script in ("finalize.sh", "finalize.ps1", "finalize.py"):
        assert (package.folder / script).is_file()
    assert "finalize.sh" in package.next_step


def test_the_script_says_what_is_missing(package: Package, has_gpu: bool, tmp_path: Path) -> None:
    copy = tmp_path / "package"
    shutil.copytree(package.folder, copy)
    command = [sys.executable, str(copy / "finalize.py")]
    if not has_gpu:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert ended.returncode == 3
        assert "no GPU" in ended.stderr
        assert "Intel GPU" in ended.stderr
    weights = copy / "openvino_model.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x5a")
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 5
    assert "openvino_model.bin" in ended.stderr


def test_the_largest_activation_is_found_and_reported(package: Package, tiny_quantized: Quantized) -> None:
    largest = largest_activation(tiny_quantized["w4-sym-g32"])
    assert 0 < largest.value <= package.checks["largest_activation"] < largest.value + 1
    stored = json.loads((package.folder / MANIFEST).read_text())["largest_activation"]
    assert (stored["tensor"], stored["value"]) == (largest.tensor, pytest.approx(largest.value, abs=1e-3))


def test_activations_that_float16_cannot_hold_are_refused(tiny_quantized: Quantized, tmp_path: Path) -> None:
    """The embedding's scales a million times larger: the residual stream leaves float16 and only there it shows."""
    loud = amplified(tiny_quantized["w4-sym-g32"], tmp_path / "loud")
    with pytest.raises(StageFailed, match="which float16 on a GPU cannot hold"):
        OpenVinoGpuBackend().compile_package(loud, {}, tmp_path)
    assert np.isfinite(HubSession(loud.graph, loud.facts).step(TOKENS[None])).all()


def amplified(quantized: QuantizedModel, out: Path) -> QuantizedModel:
    """The quantized model with a far larger embedding table."""
    import onnx_ir as ir

    shutil.copytree(quantized.folder, out)
    hub = ir.load(quantized.graph)
    scales = hub.graph.initializers["model.embed_tokens.weight.scales"]
    assert scales.const_value is not None
    scales.const_value = ir.tensor(scales.const_value.numpy() * np.float32(1e6), name=scales.name)
    (out / "model.onnx").unlink()
    ir.save(hub, out / "model.onnx", external_data="changed.data")
    return dataclasses.replace(quantized, folder=out)


def test_a_number_that_is_none_counts_as_the_largest(
    tiny_quantized: Quantized, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantized = tiny_quantized["w4-sym-g32"]
    run = openvino_gpu_range.run

    def with_nan(*given: object) -> list[np.ndarray]:
        arrays = run(*given)  # type: ignore[arg-type]
        return [*arrays[:-1], np.full_like(arrays[-1], np.nan)]

    monkeypatch.setattr(openvino_gpu_range, "run", with_nan)
    with pytest.raises(StageFailed, match="reaches nan"):
        largest_activation(quantized)


def test_the_weights_run_in_float32_on_the_cpu(package: Package, tiny_quantized: Quantized) -> None:
    quantized = tiny_quantized["w4-sym-g32"]
    expected = HubSession(quantized.graph, quantized.facts).step(TOKENS[None])[0]
    found = OpenVinoGpu().session(package.folder, package.settings, WEIGHTS).step(TOKENS)
    assert np.abs(found - expected).max() < 1e-3


def test_nothing_stands_in_for_the_gpu(package: Package, has_gpu: bool) -> None:
    runtime = OpenVinoGpu()
    if has_gpu:
        (placed,) = runtime.placement(package.folder, package.settings)
        assert set(placed.operators) == {"GPU.0"} or set(placed.operators) == {"GPU"}
        return
    assert runtime.evidence is Status.PREPARED
    assert runtime.pipeline(package.folder, package.settings) is None
    assert runtime.placement(package.folder, package.settings) == ()
    with pytest.raises(DeviceMissing, match="no Intel GPU"):
        runtime.session(package.folder, package.settings, DEPLOYED)
