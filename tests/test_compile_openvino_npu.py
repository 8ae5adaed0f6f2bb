"""The Intel NPU package: what it holds, what is refused, and its scripts on a machine that has no NPU."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from compile import finalize_npu
from compile.npu_compiler import SWITCH_VARIABLE
from compile.openvino_npu_backend import MANIFEST, OpenVinoNpuBackend, describe_weights, refuse_mixed_groups
from compile.openvino_npu_shapes import static_shapes
from compile.package import Package, folder_bytes
from quantize.quantizer import QuantizedModel
from targets.errors import InputRefused, NotForModel, StageFailed, UsageError
from targets.status import Status
from tests.conftest import Quantized

MODEL = "openvino_model.xml"
OPTIONS = {"npu_platform": "4000"}


@pytest.fixture(scope="module")
def package(tiny_quantized: Quantized, new_folder: Callable[[str], Path]) -> Package:
    """As a machine without an NPU compiler makes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH_VARIABLE, "off")
        return OpenVinoNpuBackend().compile_package(tiny_quantized["w4-sym-cw"], OPTIONS, new_folder("npu"))


@pytest.fixture
def copy(package: Package, tmp_path: Path) -> Path:
    """The package's folder, to change."""
    return Path(shutil.copytree(package.folder, tmp_path / "package"))


def run_script(folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["sh", str(folder / "finalize.sh")],
        env={**os.environ, "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_groups_that_divide_only_some_weights_are_not_made(tiny_quantized: Quantized, tmp_path: Path) -> None:
    """128 divides the 128 inputs of down_proj and none of the 64 of the others, which became channel-wise."""
    with pytest.raises(NotForModel, match=r"groups of 128 do not divide the 64 input channels of model\.layers\.0\."):
        OpenVinoNpuBackend().compile_package(tiny_quantized["w4-sym-g128"], OPTIONS, tmp_path)
    assert not list(tmp_path.iterdir())
    for scheme in ("w4-sym-g32", "w4-sym-cw", "w8-sym"):
        refuse_mixed_groups(tiny_quantized[scheme])


def test_without_a_compiler_the_package_is_prepared_and_says_what_changes_that(package: Package) -> None:
    assert package.evidence == (Status.PREPARED,)
    assert package.next_step is not None
    assert package.next_step.startswith(
        f"To compile the blob here: unset {SWITCH_VARIABLE}, and build again. Or run fin"
    )
    assert "NPU 4000" in package.next_step
    assert package.backend == "openvino-npu"
    assert package.settings == {"MAX_PROMPT_LEN": 64, "MIN_RESPONSE_LEN": 64}
    assert package.package_bytes == folder_bytes(package.folder)
    assert not (package.folder / "openvino_model.blob").exists()


def test_the_manifest_says_what_the_package_is_tied_to(package: Package, tiny_quantized: Quantized) -> None:
    manifest = json.loads((package.folder / MANIFEST).read_text())
    assert manifest["requires"] == package.requires
    assert package.requires["platform"] == "4000"
    assert package.requires["weights_sha256"] == finalize_npu.sha256(package.folder / "openvino_model.bin")
    assert manifest["weights_digest"] == package.weights_digest == tiny_quantized["w4-sym-cw"].weights_digest
    assert manifest["blob"] is None
    assert manifest["blob_is_reproducible"] is False
    assert SWITCH_VARIABLE in manifest["no_blob_because"]
    assert manifest["compiled_with"]["NPUW_LLM_MAX_PROMPT_LEN"] == "64"


@pytest.mark.parametrize(
    ("scheme", "group_size", "mode"),
    [("w4-sym-cw", "-1", "int4_sym"), ("w4-sym-g64", "64", "int4_sym"), ("w8-sym", "-1", "int8_sym")],
)
def test_the_model_says_how_its_weights_are_quantized(copy: Path, scheme: str, group_size: str, mode: str) -> None:
    import openvino as ov

    before = finalize_npu.sha256(copy / "openvino_model.bin")
    describe_weights(copy, scheme)
    described = ov.Core().read_model(copy / MODEL).get_rt_info(["nncf", "weight_compression"]).value
    assert described == {"group_size": group_size, "mode": mode}
    assert finalize_npu.sha256(copy / "openvino_model.bin") == before


@pytest.mark.parametrize(
    ("options", "message", "step"),
    [
        ({"npu_plattform": "4000"}, "has no option 'npu_plattform'", "npu_platform"),
        ({}, "needs the option npu_platform", "3720, 4000, 5010"),
        ({"npu_platform": "400"}, "NPU platform", "4000"),
    ],
)
def test_wrong_options_are_refused_before_any_work(
    tiny_quantized: Quantized, tmp_path: Path, options: dict[str, str | int], message: str, step: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        OpenVinoNpuBackend().compile_package(tiny_quantized["w4-sym-cw"], options, tmp_path)
    assert step in caught.value.help
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("context", "prompt", "response"),
    [(8192, 1024, 128), (1152, 1024, 128), (1151, 960, 128), (256, 128, 128), (255, 128, 64), (128, 64, 64)],
)
def test_shapes_fit_the_context(context: int, prompt: int, response: int) -> None:
    assert static_shapes(context) == {"MAX_PROMPT_LEN": prompt, "MIN_RESPONSE_LEN": response}


def test_a_context_too_short_for_the_shapes_is_refused() -> None:
    with pytest.raises(InputRefused, match="a context of 127 tokens is too short"):
        static_shapes(127)


@pytest.mark.parametrize("lowest", [-3.4028234663852886e38, -np.inf, -65536.0])
def test_a_mask_that_float16_cannot_hold_is_refused(tiny_quantized: Quantized, tmp_path: Path, lowest: float) -> None:
    """Known fault: prompts are padded on the left, and a row masked with such a number makes every token id 0."""
    quantized = with_mask(tiny_quantized["w4-sym-cw"], lowest, tmp_path / "quantized")
    out = tmp_path / "package"
    out.mkdir()
    with pytest.raises(StageFailed, match=r"constant \S+ reaches (3.40282e\+38|inf|65536), which float16"):
        OpenVinoNpuBackend().compile_package(quantized, OPTIONS, out)


def with_mask(quantized: QuantizedModel, lowest: float, out: Path) -> QuantizedModel:
    """The same model, masking with another number than the hub's."""
    model = ir.load(quantized.graph)
    changed = 0
    for node in model.graph:
        for attribute in node.attributes.values():
            assert attribute.type is not ir.AttributeType.TENSOR or float(attribute.as_tensor().numpy().min()) > -65504
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.size == 1 and value.const_value.numpy().item() == -65504:
            value.const_value = ir.tensor(np.full(value.const_value.shape.numpy(), lowest, np.float32), name=value.name)
            changed += 1
    assert changed
    shutil.copytree(quantized.folder, out)
    (out / "model.onnx").unlink()
    ir.save(model, out / "model.onnx", external_data="other.data")
    return dataclasses.replace(quantized, folder=out)


def test_the_script_on_a_machine_without_an_npu_says_so(package: Package) -> None:
    done = run_script(package.folder)
    assert done.returncode == 3
    assert done.stderr == (
        "error: OpenVINO finds no NPU on this machine; it finds CPU\n"
        " help: run this on a machine with Intel NPU 4000 and Intel's NPU driver\n"
    )


def test_the_script_refuses_a_damaged_package(copy: Path) -> None:
    with (copy / "openvino_model.bin").open("r+b") as stream:
        stream.write(b"\xff")
    done = run_script(copy)
    assert (done.returncode, "openvino_model.bin is not the file that was shipped" in done.stderr) == (5, True)


def test_the_script_says_which_runtime_is_missing(copy: Path, tmp_path: Path) -> None:
    """An interpreter without OpenVINO: nothing but the standard library is asked of it before."""
    (tmp_path / "openvino.py").write_text("raise ImportError('not here')\n")
    done = run_script(copy, PYTHONPATH=str(tmp_path))
    assert (done.returncode, "pip install openvino==" in done.stderr) == (3, True)


def test_a_script_that_succeeds_validates_the_bundle(copy: Path, tmp_path: Path) -> None:
    (copy / "finalize.py").write_text("print('loaded')\n")
    assert "not in a bundle" in run_script(copy).stdout
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    folder = Path(shutil.copytree(copy, bundle / "packages" / "npu-4000-openvino-npu"))
    (bundle / "manifest.json").write_text("{}")
    assert f"then: tapeout validate {bundle}\n" in run_script(folder, TAPEOUT="no-such-command").stdout
    assert run_script(folder, TAPEOUT="echo").stdout == f"loaded\nvalidate {bundle}\n"


def test_the_windows_script_is_the_same_in_powershell(package: Package) -> None:
    text = (package.folder / "finalize.ps1").read_text()
    assert text.count("{") == text.count("}")
    assert "finalize.py" in text
    assert "validate $bundle" in text
    if not shutil.which("pwsh"):
        pytest.skip("PowerShell is not installed: only the script's text was read")
    done = subprocess.run(
        ["pwsh", "-NoProfile", "-File", str(package.folder / "finalize.ps1")],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 3


class FakeCore:
    """An OpenVINO that finds an NPU."""

    def __init__(self, answer: str = "CompatibilityCheck.SUPPORTED", **properties: Any) -> None:
        self.available_devices = ["CPU", "NPU"]
        supported = {"COMPATIBILITY_CHECK": "RO"} if answer else {}
        self.properties = {"DEVICE_ARCHITECTURE": "4000", "SUPPORTED_PROPERTIES": supported, **properties}
        self.answer, self.asked = answer, ""

    def get_property(self, device: str, name: str, arguments: dict[str, str] | None = None) -> Any:
        assert device == "NPU"
        if arguments is not None:
            self.asked = arguments["RUNTIME_REQUIREMENTS"]
            return self.answer
        return self.properties[name]


def requires(openvino: str | None = None) -> dict[str, str]:
    from importlib.metadata import version

    return {
        "platform": "4000",
        "openvino": openvino or version("openvino"),
        "runtime_requirements": "meta=2.7;desc=[npu=4000]",
    }


def test_a_blob_that_fits_is_imported() -> None:
    core = FakeCore()
    assert finalize_npu.why_not_import(core, requires(), "a.blob") is None
    assert core.asked == "meta=2.7;desc=[npu=4000]"
    assert finalize_npu.why_not_import(FakeCore(answer=""), requires(), "a.blob") is None


@pytest.mark.parametrize(
    ("core", "openvino", "blob", "reason"),
    [
        (FakeCore(), None, None, "the package has no blob"),
        (FakeCore(), "2025.1.0", "a.blob", "the blob is for OpenVINO 2025.1.0 and this is"),
        (FakeCore("CompatibilityCheck.UNSUPPORTED"), None, "a.blob", "the driver says UNSUPPORTED"),
    ],
)
def test_a_blob_that_does_not_fit_is_compiled_afresh(
    core: FakeCore, openvino: str | None, blob: str | None, reason: str
) -> None:
    found = finalize_npu.why_not_import(core, requires(openvino), blob)
    assert found is not None
    assert reason in found


def test_another_generation_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    core = FakeCore(DEVICE_ARCHITECTURE="3720")
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Core=lambda: core))
    monkeypatch.setitem(sys.modules, "openvino_genai", SimpleNamespace())
    with pytest.raises(SystemExit) as caught:
        finalize_npu.find_npu(requires())
    assert caught.value.code == 3
    assert "is for NPU 4000 and this machine has NPU 3720" in capsys.readouterr().err


@pytest.mark.parametrize("refuses", [False, True])
def test_the_device_loads_the_blob_or_compiles_afresh(
    copy: Path, monkeypatch: pytest.MonkeyPatch, refuses: bool
) -> None:
    """The whole script against a pipeline that records what it was loaded with."""
    loaded: list[dict[str, Any]] = []

    class Pipeline:
        def __init__(self, folder: str, device: str, **properties: Any) -> None:
            loaded.append(properties)
            if refuses and "WEIGHTS_PATH" in properties:
                raise RuntimeError("serialized with different OV version")

        def generate(self, prompt: str, **_: Any) -> str:
            return "Paris."

    (copy / "openvino_model.blob").write_bytes(b"blob")
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["blob"] = "openvino_model.blob"
    manifest["requires"] |= requires() | {"blob_sha256": finalize_npu.sha256(copy / "openvino_model.blob")}
    (copy / MANIFEST).write_text(json.dumps(manifest))
    core = FakeCore(NPU_DRIVER_VERSION=1760)
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Core=lambda: core))
    monkeypatch.setitem(sys.modules, "openvino_genai", SimpleNamespace(LLMPipeline=Pipeline))
    monkeypatch.setattr(finalize_npu, "__file__", str(copy / "finalize.py"))
    finalize_npu.main()
    record = json.loads((copy / "finalized.json").read_text())
    assert (record["imported"], record["driver"], record["answer"]) == (not refuses, "1760", "Paris.")
    assert loaded[0] == {
        "BLOB_PATH": str(copy / "openvino_model.blob"),
        "WEIGHTS_PATH": str(copy / "openvino_model.bin"),
    }
    assert [set(each) for each in loaded[1:]] == (
        [{"MAX_PROMPT_LEN", "MIN_RESPONSE_LEN", "EXPORT_BLOB", "BLOB_PATH"}] if refuses else []
    )
