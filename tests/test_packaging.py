"""The wheel: our packages and nothing else, with their data; and what an installation on a device brings along."""

import email
import importlib.metadata
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("compile", "export", "quantize", "tapeout", "targets", "validate")
# What builds a model and has no place on a device.
BUILD_ONLY = {"torch", "transformers", "optimum", "optimum-onnx", "nncf", "onnx", "onnx-ir", "onnxscript", "gguf"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of a copy of the checkout: setuptools would leave its build folder beside the sources."""
    work = tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, work / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, work)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(work / "out")]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(work)], check=True, timeout=300)
    return zipfile.ZipFile(next((work / "out").glob("*.whl")))


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> email.message.Message:
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def closure(own: list[str], *extras: str) -> set[str]:
    """The distributions that Tapeout with `extras` brings, given its requirements and those of what is installed."""
    found: set[tuple[str, str]] = set()
    waiting = [("tapeout", extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        lines = own if name == "tapeout" else importlib.metadata.requires(name) or []
        for needed in map(Requirement, lines):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(needed.name), wanted) for wanted in ("", *needed.extras)]
    return {name for name, _ in found} - {"tapeout"}


def test_top_level_packages_are_ours_and_no_others(wheel: zipfile.ZipFile) -> None:
    found = {name.partition("/")[0] for name in wheel.namelist()}
    assert {name for name in found if not name.endswith(".dist-info")} == set(PACKAGES)


def test_every_file_of_a_package_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    files = [path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()]
    # Markdown is for people in a checkout.
    wanted = {str(path.relative_to(ROOT)) for path in files if path.suffix not in {".pyc", ".md"}}
    assert any(name.endswith(".toml") for name in wanted)
    assert any(name.endswith(".jsonl") for name in wanted)
    assert not wanted - set(wheel.namelist())


def test_an_index_would_refuse_the_wheel(metadata: email.message.Message) -> None:
    assert "Private :: Do Not Upload" in metadata.get_all("Classifier", [])


def test_a_device_gets_no_exporter_and_no_quantizer(metadata: email.message.Message) -> None:
    own = metadata.get_all("Requires-Dist", [])
    device = closure(own, "device")
    assert {"openvino-genai", "onnxruntime-genai", "tokenizers"} <= device
    assert not device & BUILD_ONLY
    assert closure(own, "build") >= BUILD_ONLY


def test_every_requirement_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    loose = [line for group in groups for line in group if "==" not in line and not line.startswith("tapeout[")]
    assert not loose


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_owns_a_package_of_ours(package: str) -> None:
    assert set(importlib.metadata.packages_distributions().get(package, ["tapeout"])) == {"tapeout"}
