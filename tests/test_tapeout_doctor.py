"""`tapeout doctor`: what is here with its version, what is not with the way to get it."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest
from click.testing import CliRunner

from tapeout import doctor
from tapeout.cli import main
from tapeout.doctor import Finding, examine


@pytest.fixture(scope="module")
def findings() -> dict[str, Finding]:
    return {finding.name: finding for finding in examine()}


def test_everything_has_a_version_or_a_way_to_get_it(findings: dict[str, Finding]) -> None:
    assert all((finding.version is None) is bool(finding.help) for finding in findings.values())
    assert {finding.kind for finding in findings.values()} == {"runtime", "plugin", "compiler", "program", "device"}


def test_versions_are_those_of_the_installed_wheels(findings: dict[str, Finding]) -> None:
    for name in ("openvino", "onnxruntime", "onnxruntime-genai", "nncf"):
        assert findings[name].version == version(name)


def test_the_runtimes_list_this_cpu(findings: dict[str, Finding]) -> None:
    assert findings["OpenVINO CPU"].version
    assert "ONNX Runtime CPUExecutionProvider on CPU" in findings


@pytest.mark.parametrize(
    ("script", "says"),
    [("raise SystemExit('driver is broken')", "driver is broken"), ("import time; time.sleep(60)", "did not answer")],
)
def test_a_driver_that_crashes_or_hangs_is_a_line_and_not_the_end(
    monkeypatch: pytest.MonkeyPatch, script: str, says: str
) -> None:
    real = subprocess.run

    def run(command: list[str], **options: object) -> object:
        assert command[1:] == ["-m", "tapeout.device_list"]
        return real([sys.executable, "-c", script], **options)  # type: ignore[call-overload]

    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setattr(doctor, "DEVICES_TIMEOUT_S", 2)
    assert says in str(list(doctor.devices())[-1].help)


def test_a_missing_plugin_and_program_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PLUGINS", {"onnxruntime-nowhere": ("a device", "pip install it")})
    monkeypatch.setenv("PATH", "")
    assert [(each.version, each.help) for each in doctor.plugins()] == [(None, "pip install it")]
    found = {each.name.split(" ")[0]: each for each in doctor.programs()}
    assert all(each.version is None for each in found.values())
    assert "openssh-client" in str(found["ssh"].help)
    assert "Ryzen AI 1.8, for Windows 11 only" in str(found["model_generate"].help)


def test_both_forms_say_the_same() -> None:
    runner = CliRunner()
    said = json.loads(runner.invoke(main, ["doctor", "--format", "json"]).stdout)
    text = runner.invoke(main, ["doctor"]).stdout
    assert said["host"]["architecture"] in text
    for finding in said["findings"]:
        assert finding["name"] in text
        assert str(finding["version"] or finding["help"]) in text
