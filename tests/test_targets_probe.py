import importlib.metadata
import os
import platform
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from targets.probe import (
    TOOLS,
    Available,
    Host,
    Missing,
    differences,
    probe_accelerators,
    probe_host,
    probe_tools,
    same_kind,
)
from targets.target import Device, load_target

ZEN4 = """processor\t: 0
model name\t: AMD EPYC 9R14
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni avx512_bf16 made_up

processor\t: 1
model name\t: second
flags\t\t: fpu amx_int8
"""

HOST = Host(
    architecture="x86-64",
    cpu_model="AMD EPYC 9R14",
    cores_physical=2,
    cores_logical=2,
    memory_bytes=24 * 2**30,
    instruction_sets=("avx2", "avx512f", "avx512_vnni", "avx512_bf16"),
    governor=None,
    kernel="6.1",
    os="Linux",
    python="3.11.7",
    glibc="2.36",
    temperature_c=None,
)


def device(target: str, name: str) -> Device:
    return next(device for device in load_target(target).devices if device.name == name)


@pytest.fixture
def pseudo(tmp_path: Path) -> Path:
    """A /proc and a /sys below one folder, as a Zen 4 machine with sensors shows them."""
    files = {
        "proc/cpuinfo": ZEN4,
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
        "sys/class/thermal/thermal_zone0/temp": "41500\n",
        "sys/class/thermal/thermal_zone1/temp": "62250\n",
        "sys/class/thermal/thermal_zone2/temp": "disabled\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    # A sensor that cannot be read: opening a folder as a file is an OSError, as EIO from a real one is.
    (tmp_path / "sys/class/thermal/thermal_zone3/temp").mkdir(parents=True)
    return tmp_path


def test_the_host_is_read_from_proc_and_sys(pseudo: Path) -> None:
    host = probe_host(pseudo / "proc", pseudo / "sys")
    assert host.cpu_model == "AMD EPYC 9R14"
    assert host.instruction_sets == ("avx2", "avx512f", "avx512_vnni", "avx512_bf16")
    assert host.governor == "performance"
    assert host.temperature_c == 62.25


def test_this_machine_is_seen() -> None:
    host = probe_host()
    assert host.cores_logical == os.cpu_count()
    assert host.memory_bytes is not None
    assert host.memory_bytes > 2**28
    assert (host.os, host.kernel, host.python) == (
        platform.system(),
        platform.release(),
        ".".join(map(str, sys.version_info[:3])),
    )


@pytest.mark.parametrize(
    ("system", "machine", "architecture"),
    [("Windows", "AMD64", "x86-64"), ("Darwin", "arm64", "arm64"), ("Linux", "riscv64", "riscv64")],
)
def test_another_system_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, machine: str, architecture: str
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    host = probe_host(tmp_path / "no proc", tmp_path / "no sys")
    assert (host.os, host.architecture) == (system, architecture)
    assert (host.cpu_model, host.governor, host.glibc, host.temperature_c) == (None, None, None, None)
    assert host.instruction_sets == ()


def test_without_psutil_cores_and_memory_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    host = probe_host()
    assert (host.cores_physical, host.memory_bytes) == (None, None)


def test_tools_are_available_or_missing_with_help(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "nncf":
            raise importlib.metadata.PackageNotFoundError(name)
        return f"{name} 1.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    tools = probe_tools()
    assert tuple(tools) == tuple(TOOLS)
    assert tools["nncf"] == Missing("nncf is not installed", "pip install 'tapeout[build]'")
    assert {tool for name, tool in tools.items() if name != "nncf"} == {
        Available(f"{name} 1.0") for name in TOOLS if name != "nncf"
    }


def test_accelerators_are_the_nodes_of_npus_and_gpus(tmp_path: Path) -> None:
    assert probe_accelerators(tmp_path) == ()
    for name in ("accel/accel0", "dri/card0", "dri/renderD128", "dri/by-path", "null"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert probe_accelerators(tmp_path) == tuple(
        str(tmp_path / name) for name in ("accel/accel0", "dri/card0", "dri/renderD128")
    )


def test_a_zen4_server_is_the_kind_of_a_ryzen_cpu() -> None:
    assert same_kind(HOST, device("ryzen", "cpu"))
    assert same_kind(HOST, device("cpu", "cpu"))
    assert same_kind(replace(HOST, instruction_sets=("avx2",)), device("ryzen", "cpu"))


def test_a_host_without_avx2_or_of_another_architecture_is_not() -> None:
    assert not same_kind(replace(HOST, instruction_sets=("avx512f",)), device("ryzen", "cpu"))
    assert not same_kind(replace(HOST, architecture="arm64"), device("ryzen", "cpu"))
    assert not same_kind(HOST, device("snapdragon-x", "cpu"))
    assert same_kind(replace(HOST, architecture="arm64"), device("snapdragon-x", "cpu"))


def test_no_host_is_the_kind_of_an_igpu_or_npu() -> None:
    for target in ("ryzen", "core-ultra", "snapdragon-x"):
        assert not any(same_kind(HOST, device) for device in load_target(target).devices if device.kind != "cpu")


def test_the_null_device_is_everywhere() -> None:
    assert same_kind(replace(HOST, architecture="riscv64", instruction_sets=()), device("null", "null"))


def test_differences_name_what_either_side_lacks() -> None:
    assert differences(HOST, device("ryzen", "cpu")) == ("the device has avx_vnni, this host has not",)
    assert "this host has avx512_bf16, the device has not" in differences(HOST, device("core-ultra", "cpu"))
    assert differences(HOST, device("cpu", "cpu")) == ()
