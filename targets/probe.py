"""Look at what this machine has: its processor, its tools and its accelerators. What cannot be seen is None."""

import importlib.metadata
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from targets.target import INSTRUCTION_SETS, Device

PROC = Path("/proc")
SYS = Path("/sys")
DEV = Path("/dev")

# Without these no runtime of ours runs on such a CPU.
BASELINE: dict[str, frozenset[str]] = {"x86-64": frozenset({"avx2"}), "arm64": frozenset()}

ARCHITECTURES = {"x86_64": "x86-64", "amd64": "x86-64", "aarch64": "arm64", "arm64": "arm64"}

# Each tool's distribution, and the extra of ours that installs it.
TOOLS: dict[str, str] = {
    "openvino": "openvino",
    "openvino-genai": "openvino",
    "openvino-tokenizers": "openvino",
    "onnxruntime": "onnxruntime",
    "onnxruntime-genai": "onnxruntime",
    "nncf": "build",
    "torch": "build",
    "optimum": "build",
    "optimum-onnx": "build",
    "transformers": "build",
}


@dataclass(frozen=True, slots=True)
class Host:
    """This machine, as it is recorded beside every figure; None where it cannot be seen.

    Attributes:
        architecture: `x86-64`, `arm64`, or what the system calls it.
        cpu_model: the processor's marketing name.
        cores_physical: cores.
        cores_logical: hardware threads.
        memory_bytes: main memory, in bytes.
        instruction_sets: which of `INSTRUCTION_SETS` the CPU has.
        governor: the frequency governor of the first CPU.
        kernel: release of the operating system's kernel.
        os: name of the operating system, such as `Linux`.
        python: version of this interpreter.
        glibc: version of the C library, on Linux with glibc.
        temperature_c: the hottest thermal zone, in degrees Celsius.
    """

    architecture: str
    cpu_model: str | None
    cores_physical: int | None
    cores_logical: int | None
    memory_bytes: int | None
    instruction_sets: tuple[str, ...]
    governor: str | None
    kernel: str
    os: str
    python: str
    glibc: str | None
    temperature_c: float | None


@dataclass(frozen=True, slots=True)
class Available:
    """A tool that is installed, in this version."""

    version: str


@dataclass(frozen=True, slots=True)
class Missing:
    """A tool that is not installed: the reason, and how to get it."""

    reason: str
    help: str


def probe_host(proc: Path = PROC, sys: Path = SYS) -> Host:
    """This machine, seen through /proc, /sys, psutil and the interpreter. Never fails on another system."""
    machine = platform.machine()
    cpuinfo = _cpuinfo(proc)
    flags = set((cpuinfo.get("flags") or cpuinfo.get("Features") or "").split())
    cores_physical, memory_bytes = _cores_and_memory()
    libc, libc_version = platform.libc_ver()
    return Host(
        architecture=ARCHITECTURES.get(machine.lower(), machine),
        cpu_model=cpuinfo.get("model name") or platform.processor() or None,
        cores_physical=cores_physical,
        cores_logical=os.cpu_count(),
        memory_bytes=memory_bytes,
        instruction_sets=tuple(name for name in INSTRUCTION_SETS if name in flags),
        governor=_read(sys / "devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        kernel=platform.release(),
        os=platform.system(),
        python=platform.python_version(),
        glibc=libc_version if libc == "glibc" else None,
        temperature_c=_temperature(sys),
    )


def probe_tools() -> dict[str, Available | Missing]:
    """Which of `TOOLS` are installed, read from package metadata: nothing is imported."""
    return {name: _probe_tool(name, extra) for name, extra in TOOLS.items()}


def probe_accelerators(dev: Path = DEV) -> tuple[str, ...]:
    """Device nodes of NPUs (/dev/accel) and GPUs (/dev/dri), sorted; () where there are none."""
    nodes = (*dev.glob("accel/accel*"), *dev.glob("dri/card*"), *dev.glob("dri/renderD*"))
    return tuple(sorted(str(node) for node in nodes))


def same_kind(host: Host, device: Device) -> bool:
    """Whether a run on `host` counts as host-measured for `device`: a CPU of its architecture, with our baseline.

    iGPUs and NPUs are never the same kind: no back end of this release runs on one.
    """
    if device.kind != "cpu":
        return False
    if device.architecture == "any":
        return True
    baseline = BASELINE[device.architecture]
    return host.architecture == device.architecture and baseline <= set(host.instruction_sets)


def differences(host: Host, device: Device) -> tuple[str, ...]:
    """How the host's CPU differs from the device's, one phrase each, for the line beside an indicative figure.

    An extension on one side only means other kernels, and for bfloat16 other numerics. () when the device names none.
    """
    if not device.instruction_sets:
        return ()
    ours, theirs = set(host.instruction_sets), set(device.instruction_sets)
    return (
        *(f"the device has {name}, this host has not" for name in sorted(theirs - ours)),
        *(f"this host has {name}, the device has not" for name in sorted(ours - theirs)),
    )


def _probe_tool(name: str, extra: str) -> Available | Missing:
    try:
        return Available(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Missing(f"{name} is not installed", f"pip install 'tapeout[{extra}]'")


def _cpuinfo(proc: Path) -> dict[str, str]:
    """The first processor's entry of /proc/cpuinfo; empty where there is none."""
    entry = (_read(proc / "cpuinfo") or "").split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in entry.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _cores_and_memory() -> tuple[int | None, int | None]:
    try:
        import psutil
    except ImportError:
        return None, None
    return psutil.cpu_count(logical=False), psutil.virtual_memory().total


def _temperature(sys: Path) -> float | None:
    """The hottest thermal zone, in degrees Celsius."""
    readings = (_read(zone) for zone in sys.glob("class/thermal/thermal_zone*/temp"))
    celsius = [int(reading) / 1000 for reading in readings if reading and reading.lstrip("-").isdecimal()]
    return max(celsius, default=None)


def _read(path: Path) -> str | None:
    """The text of a pseudo file, or None: a sensor may be absent, forbidden, or fail when it is read."""
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None
