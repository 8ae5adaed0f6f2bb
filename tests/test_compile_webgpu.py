"""The package for ONNX Runtime's WebGPU provider, run by the provider's own kernels on a Vulkan driver in software."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compile.package import Package
from compile.webgpu_backend import WebGpuBackend
from export.parity import HubSession
from targets.errors import DeviceMissing
from targets.legality import CHANNEL_WISE, LEGALITY
from targets.probe import Available, Missing
from targets.status import Status
from targets.target import load_target
from tests.conftest import Packages, Quantized
from validate import webgpu_adapter
from validate.runtime import DEPLOYED, WEIGHTS
from validate.webgpu_adapter import OURS, PROVIDER, SWIFTSHADER, describe_software_driver, prepare_software
from validate.webgpu_runtime import LONG_PREFILL, WebGpu, WebGpuPipeline

TOKENS = np.arange(3, 35, dtype=np.int64)

needs_driver = pytest.mark.skipif(
    not Path(os.environ.get(OURS, SWIFTSHADER)).is_file(),
    reason="no Vulkan driver in software: chromium-common has one",
)


@pytest.fixture(scope="module")
def package(tiny_quantized: Quantized, tmp_path_factory: pytest.TempPathFactory) -> Package:
    return WebGpuBackend().compile_package(tiny_quantized["w4-sym-g32"], {}, tmp_path_factory.mktemp("webgpu"))


@pytest.fixture(scope="module")
def in_8_bits(tiny_quantized: Quantized, tmp_path_factory: pytest.TempPathFactory) -> Package:
    return WebGpuBackend().compile_package(tiny_quantized["w8-asym"], {}, tmp_path_factory.mktemp("webgpu8"))


def test_it_holds_the_quantized_weights_with_float_activations(package: Package, tiny_packages: Packages) -> None:
    cpu = tiny_packages["llama", "w4-sym-g32", "onnxruntime"]
    assert package.weights_digest == cpu.weights_digest
    # The CPU's graph multiplies by several projections at once, and its head reads the last position alone.
    for name in ("attentions", "attentions_fused", "quantized_weights"):
        assert package.checks[name] == cpu.checks[name]
    assert package.settings["accuracy_level"] == 1 != cpu.settings["accuracy_level"]


def test_it_asks_onnxruntime_genai_for_webgpu(package: Package) -> None:
    config = json.loads((package.folder / "genai_config.json").read_text())
    assert config["model"]["decoder"]["session_options"]["provider_options"] == [{"webgpu": {}}]
    assert config["search"]["do_sample"] is False


def test_it_is_prepared_until_a_gpu_is_there(package: Package) -> None:
    assert package.evidence == (Status.PREPARED,)
    assert package.next_step is not None
    assert f"onnxruntime-ep-webgpu=={package.requires['onnxruntime-ep-webgpu']}" in package.next_step


def test_the_products_scheme_is_legal() -> None:
    (runtime,) = next(device for device in load_target("ryzen").devices if device.kind == "igpu").runtimes
    assert (runtime.backend, runtime.legality) == ("onnxruntime-webgpu", "onnxruntime-webgpu")
    assert LEGALITY[runtime.legality].group_sizes == (32, CHANNEL_WISE)


def test_the_weights_run_in_float32_on_the_cpu(package: Package, tiny_quantized: Quantized) -> None:
    quantized = tiny_quantized["w4-sym-g32"]
    expected = HubSession(quantized.graph, quantized.facts).step(TOKENS[None])[0]
    found = WebGpu().session(package.folder, package.settings, WEIGHTS).step(TOKENS)
    assert np.abs(found - expected).max() < 1e-3


@needs_driver
@pytest.mark.parametrize("made", ["package", "in_8_bits"])
def test_the_providers_kernels_compute_what_the_cpu_computes(made: str, request: pytest.FixtureRequest) -> None:
    package: Package = request.getfixturevalue(made)
    runtime = WebGpu()
    assert runtime.evidence in {Status.EMULATED, None}
    cpu = runtime.session(package.folder, package.settings, WEIGHTS)
    device = runtime.session(package.folder, package.settings, DEPLOYED)
    for step in (TOKENS[:20], TOKENS[20:21], TOKENS[21:]):
        assert np.abs(device.step(step) - cpu.step(step)).max() < 1e-4


@needs_driver
@pytest.mark.parametrize("made", ["package", "in_8_bits"])
def test_every_operator_is_on_webgpu_but_those_the_product_allows(made: str, request: pytest.FixtureRequest) -> None:
    package: Package = request.getfixturevalue(made)
    (placed,) = WebGpu().placement(package.folder, package.settings)
    assert placed.requested == PROVIDER
    assert placed.operators[PROVIDER] + sum(placed.elsewhere.values()) == sum(placed.operators.values())
    (runtime,) = next(device for device in load_target("ryzen").devices if device.kind == "igpu").runtimes
    assert set(placed.elsewhere) <= set(runtime.off_device)
    assert placed.weight_bytes[PROVIDER] > 0.99 * sum(placed.weight_bytes.values())


@needs_driver
def test_a_product_generates_on_webgpu_what_it_generates_on_the_cpu(package: Package, tiny_packages: Packages) -> None:
    from validate.onnxruntime_runtime import OnnxRuntime

    cpu = OnnxRuntime().session(
        tiny_packages["llama", "w4-sym-g32", "onnxruntime"].folder, {"accuracy_level": 4}, WEIGHTS
    )
    prompt = [3, 4, 5, 6]
    found = WebGpuPipeline(package.folder).generate(prompt, 4, stop=False)
    logits = cpu.step(np.array([*prompt, *found.tokens[:-1]], np.int64))[len(prompt) - 1 :]
    assert list(found.tokens) == logits.argmax(-1).tolist()


@needs_driver
def test_long_prefills_are_kept_from_software_drivers(package: Package) -> None:
    """The provider's other attention kernel is wrong there; when it no longer is, the coverage can grow."""
    runtime = WebGpu()
    if runtime.evidence is not Status.EMULATED:
        pytest.skip("this machine has a GPU")
    assert runtime.coverage is not None
    assert runtime.coverage.prefill < LONG_PREFILL
    differences = []
    for length in (LONG_PREFILL - 1, LONG_PREFILL):
        tokens = np.arange(3, 3 + length, dtype=np.int64)
        cpu, device = (runtime.session(package.folder, package.settings, each) for each in (WEIGHTS, DEPLOYED))
        differences.append(float(np.abs(device.step(tokens) - cpu.step(tokens)).max()))
    assert differences[0] < 1e-4
    assert differences[1] > 1e-2


@needs_driver
def test_a_software_driver_does_not_speak(package: Package) -> None:
    runtime = WebGpu()
    if runtime.evidence is Status.EMULATED:
        assert runtime.pipeline(package.folder, package.settings) is None
        assert runtime.coverage is not None


def test_without_a_driver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(OURS, str(tmp_path / "none.json"))
    with pytest.raises(DeviceMissing, match="no Vulkan driver") as missing:
        prepare_software()
    assert "apt install" in missing.value.help
    assert isinstance(describe_software_driver(), Missing)
    (tmp_path / "none.json").touch()
    assert describe_software_driver() == Available(str(tmp_path / "none.json"))


def test_without_an_adapter_the_package_stays_prepared(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise DeviceMissing("no adapter", "get one")

    monkeypatch.setattr("validate.webgpu_runtime.find_adapter", none)
    assert WebGpu().evidence is Status.PREPARED
    assert WebGpu().placement(package.folder, package.settings) == ()
    with pytest.raises(DeviceMissing, match="no adapter"):
        WebGpu().session(package.folder, package.settings, DEPLOYED)
    assert webgpu_adapter.INSTALL


@needs_driver
def test_a_driver_that_fails_is_an_error_and_not_the_cpu(package: Package, tmp_path: Path) -> None:
    """ONNX Runtime would go on with the CPU and a line on standard output."""
    driver = tmp_path / "broken.json"
    content = {"file_format_version": "1.0.0", "ICD": {"library_path": "/nowhere.so", "api_version": "1.1.0"}}
    driver.write_text(json.dumps(content))
    program = (
        "import sys; from pathlib import Path; from validate.webgpu_runtime import webgpu_session\n"
        "from targets.errors import StageFailed\n"
        "try: print(webgpu_session(Path(sys.argv[1])).get_providers())\n"
        "except StageFailed as error: print('refused:', error.what)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(package.folder)],
        env={**os.environ, OURS: str(driver), "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert ended.stdout.startswith("refused: the WebGPU provider does not load the graph")
