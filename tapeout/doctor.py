"""What this machine has to build with and to run on, and the sentence that says how to get each missing part."""

import importlib.metadata
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from targets.probe import Available, Missing, probe_accelerators, probe_tools

DEVICES_TIMEOUT_S = 60

# Distributions that one kind of device needs, beside those of `targets.probe.TOOLS`.
PLUGINS: dict[str, tuple[str, str]] = {
    "onnxruntime-qnn": (
        "Qualcomm HTP: compiler and simulator",
        "pip install '.[qnn]' in a checkout (glibc 2.35 or newer)",
    ),
    "onnxruntime-ep-webgpu": ("any GPU through WebGPU", "pip install '.[webgpu]' in a checkout"),
}

# Programs that a command of ours calls.
PROGRAMS: dict[str, tuple[str, str]] = {
    "model_generate": (
        "AMD XDNA2 NPU: generates from a hand-off",
        "it comes with AMD's Ryzen AI 1.8, for Windows 11 only; finalize.ps1 in the package runs it there",
    ),
    "ssh": ("tapeout validate --on", "install OpenSSH's client (Debian, Ubuntu: apt-get install openssh-client)"),
}

NO_NODES = "none in /dev/accel and /dev/dri: packages for an NPU or an iGPU are compiled, simulated or prepared here"


@dataclass(frozen=True)
class Finding:
    """One thing looked for.

    Attributes:
        kind: `runtime`, `plugin`, `compiler`, `program` or `device`.
        name: what it is.
        version: what was found, or None.
        help: how to get it; None when it is here.
    """

    kind: str
    name: str
    version: str | None
    help: str | None


def examine() -> tuple[Finding, ...]:
    """Everything that a target could ask of this machine."""
    return (*runtimes(), *plugins(), *compilers(), *programs(), *devices())


def runtimes() -> Iterator[Finding]:
    """Runtimes and the libraries that a build calls."""
    for name, tool in probe_tools().items():
        yield from_probe("runtime", name, tool)


def plugins() -> Iterator[Finding]:
    """Execution providers that come as wheels of their own."""
    for name, (purpose, step) in PLUGINS.items():
        try:
            yield Finding("plugin", f"{name} ({purpose})", importlib.metadata.version(name), None)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("plugin", f"{name} ({purpose})", None, step)


def compilers() -> Iterator[Finding]:
    """Compilers for devices that are not here."""
    from compile.npu_compiler import describe_compiler
    from compile.quark_load import describe_quark
    from validate.webgpu_adapter import describe_software_driver

    yield from_probe("compiler", "Intel NPU compiler", describe_compiler())
    yield from_probe("compiler", "AMD Quark, to check a hand-off with", describe_quark())
    yield from_probe("compiler", "Vulkan driver in software, for WebGPU without a GPU", describe_software_driver())


def programs() -> Iterator[Finding]:
    """Programs on the path."""
    for name, (purpose, step) in PROGRAMS.items():
        path = shutil.which(name)
        yield Finding("program", f"{name} ({purpose})", path, None if path else step)


def devices() -> Iterator[Finding]:
    """Device nodes that the kernel shows, and what the runtimes list, asked in a child: a driver may crash or hang."""
    nodes = probe_accelerators()
    for node in nodes:
        yield Finding("device", node, "device node", None)
    if not nodes:
        yield Finding("device", "NPU or GPU device node", None, NO_NODES)
    command = [sys.executable, "-m", "tapeout.device_list"]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=DEVICES_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        yield Finding(
            "device", "devices of the runtimes", None, f"a driver did not answer within {DEVICES_TIMEOUT_S} s"
        )
        return
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["it said nothing"])[-1]
        yield Finding("device", "devices of the runtimes", None, f"listing them ended with {child.returncode}: {last}")
        return
    for row in json.loads(child.stdout):
        yield Finding("device", f"{row['runtime']} {row['device']}", row["name"], None)


def from_probe(kind: str, name: str, tool: Available | Missing) -> Finding:
    """A probe's answer as a finding."""
    if isinstance(tool, Available):
        return Finding(kind, name, tool.version, None)
    return Finding(kind, name, None, f"{tool.reason}: {tool.help}")
