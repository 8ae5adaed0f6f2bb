"""Compile a package for an Intel NPU generation without the device, by the best compiler this machine has.

OpenVINO's NPU plugin compiles for a platform that is not here when it is told which (`NPU_PLATFORM`) and has a compiler
(`NPU_COMPILER_TYPE=PLUGIN`): openvino, src/plugins/intel_npu/README.md. The Linux wheel has none.
"""

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from compile.npu_compiler_blob import BlobFacts, check_blob, read_blob
from compile.npu_compiler_native import find_native
from compile.npu_compiler_wheel import VERSION
from compile.npu_compiler_wine import INSTALL, find_wine
from compile.vendor_child import require_output, run_vendor
from targets.errors import StageFailed, TapeoutError, TimedOut
from targets.probe import Available, Missing

PLATFORMS = ("3720", "4000", "5010")

# Where the wheel is unpacked and Wine keeps its drive.
DOWNLOADS_VARIABLE = "TAPEOUT_DOWNLOADS"

# Set to `off`, packages are made without their blobs: for a machine with no time or no package index.
SWITCH_VARIABLE = "TAPEOUT_NPU_COMPILER"

COMPILE_SECONDS = 1200
# For all parts of a refused model together.
BISECTION_SECONDS = 1200
# 6 to 9 times the weights were seen with larger models, beside what the compiler itself needs.
MEMORY_BASE = 2 << 30
MEMORY_PER_WEIGHT_BYTE = 12


class Compiler(Protocol):
    """One way to run the NPU compiler."""

    @property
    def version(self) -> str:
        """Which compiler, for the record."""
        ...

    def prepare(self, cache: Path) -> None:
        """Fetch and build what it needs."""
        ...

    def command(self, cache: Path, arguments: Sequence[str]) -> list[str]:
        """The child's command line."""
        ...

    def environment(self, cache: Path) -> Mapping[str, str]:
        """Variables the child needs."""
        ...

    def path(self, path: Path) -> str:
        """How the child spells a path."""
        ...


@dataclass(frozen=True)
class Compiled:
    """A blob and where it came from.

    Attributes:
        blob: what is in the file.
        compiler: who compiled it, with the version the compiler gives itself.
        requirements: OpenVINO's RUNTIME_REQUIREMENTS for that platform, which the device's COMPATIBILITY_CHECK takes.
    """

    blob: BlobFacts
    compiler: str
    requirements: str


def find_compiler() -> Compiler | Missing:
    """OpenVINO's own compiler if it has one, else the Windows wheel's under Wine, else what would change that."""
    if os.environ.get(SWITCH_VARIABLE) == "off":
        return Missing(f"the NPU compiler is turned off by {SWITCH_VARIABLE}", f"unset {SWITCH_VARIABLE}")
    native = find_native()
    if native:
        return native
    wine = find_wine()
    if not isinstance(wine, str):
        return wine
    reason = f"OpenVINO has no NPU compiler on this system, and {wine} to run the Windows wheel's is not installed"
    return Missing(reason, INSTALL)


def describe_compiler() -> Available | Missing:
    """Which NPU compiler this machine has; nothing is started or fetched."""
    found = find_compiler()
    return found if isinstance(found, Missing) else Available(found.version)


def downloads_folder() -> Path:
    """Where this machine keeps what is fetched: the folder in `TAPEOUT_DOWNLOADS`, or the user's cache."""
    named = os.environ.get(DOWNLOADS_VARIABLE)
    return Path(named) if named else Path.home() / ".cache" / "tapeout"


def compile_blob(compiler: Compiler, model: Path, platform: str, properties: Mapping[str, str], blob: Path) -> Compiled:
    """Compile the IR `model` for an NPU platform and write `blob`.

    Args:
        compiler: who does it.
        model: the `.xml` of the IR, its weights beside it.
        platform: one of `PLATFORMS`.
        properties: what NPUW is told of the shapes; the platform and the compiler are added.
        blob: file to write.

    Raises:
        DeviceMissing: the compiler has to be fetched and cannot be.
        StageFailed: it refused the model, died, or wrote no NPU binaries for the platform.
        TimedOut: it did not end.
    """
    cache = downloads_folder().absolute() / f"openvino-npu-compiler-{VERSION}"
    compiler.prepare(cache)
    what, log = f"NPU {platform} compiler", cache / f"compile-{platform}-{os.getpid()}.log"
    given = {**properties, "NPU_COMPILER_TYPE": "PLUGIN", "NPU_PLATFORM": platform}
    with tempfile.TemporaryDirectory(prefix="tapeout-npu-") as scratch:
        run = Run(compiler, cache, platform, write_probe(Path(scratch)))
        try:
            run.compile(model, given, blob, what, log)
        except StageFailed as error:
            raise StageFailed(f"{error.what}{explain(run, model, Path(scratch))}", error.help) from error
    said = read_facts(log, what)
    log.unlink()
    facts = read_blob(blob)
    check_blob(facts, platform)
    return Compiled(facts, f"{compiler.version}, compiler {plain_version(said['compiler'])}", said["requirements"])


@dataclass(frozen=True)
class Run:
    """A compiler that is set up, at work for one platform.

    Attributes:
        compiler: who does it.
        cache: where it is set up.
        platform: of the NPU.
        probe: a model of one operator.
    """

    compiler: Compiler
    cache: Path
    platform: str
    probe: Path

    def compile(self, model: Path, properties: Mapping[str, str], blob: Path, what: str, log: Path) -> None:
        """Compile `model` in a child and export it to `blob`.

        Raises:
            StageFailed: the child crashed, refused the model, took too much memory, or wrote nothing.
            TimedOut: it did not end.
        """
        files = [self.compiler.path(path) for path in (self.probe, model, blob)]
        arguments = [self.platform, *files, *(text for pair in properties.items() for text in pair)]
        run_vendor(
            self.compiler.command(self.cache, arguments),
            what=what,
            timeout_s=COMPILE_SECONDS,
            memory_bytes=MEMORY_BASE + MEMORY_PER_WEIGHT_BYTE * model.with_suffix(".bin").stat().st_size,
            log=log,
            environment=self.compiler.environment(self.cache),
        )
        require_output([blob], what, log)


def explain(run: Run, model: Path, scratch: Path) -> str:
    """What bisection finds in a model that was refused, as the end of an error's sentence."""
    from compile.openvino_refused_part import find_refused_part

    deadline = time.monotonic() + BISECTION_SECONDS
    plain = {"NPU_COMPILER_TYPE": "PLUGIN", "NPU_PLATFORM": run.platform}

    def compiles(part: Path) -> bool:
        if time.monotonic() > deadline:
            raise TimedOut(f"{BISECTION_SECONDS:g} s were not enough", "compile the model by hand")
        blob = scratch / "part.blob"
        blob.unlink(missing_ok=True)
        try:
            run.compile(part, plain, blob, "NPU compiler: part of a model", scratch / "part.log")
        except StageFailed:
            return False
        return True

    try:
        if not compiles(run.probe):
            return "\nit does not compile a single operator either: it does not work here"
        refused = find_refused_part(model, compiles, scratch)
    except (TapeoutError, RuntimeError) as error:
        return f"\nwhich part of the model it refuses was not found: {error}"
    if refused is None:
        return "\nit takes the model at fixed lengths, as a whole: what it refuses is what NPUW makes of it"
    return f"\nthe smallest part of the model that it refuses: {refused}"


def write_probe(folder: Path) -> Path:
    """A model of one operator."""
    import numpy as np
    import openvino as ov
    from openvino import opset13

    x = opset13.parameter(ov.PartialShape([1, 16]), np.float32)
    ov.save_model(ov.Model([opset13.relu(x)], [x], "probe"), folder / "probe.xml")
    return folder / "probe.xml"


def read_facts(log: Path, what: str) -> dict[str, str]:
    """The "name value" lines that the child printed.

    Raises:
        StageFailed: one is missing.
    """
    lines = (line.strip().partition(" ") for line in log.read_text(errors="replace").splitlines())
    said = {name: value for name, _, value in lines if name in {"openvino", "compiler", "requirements"}}
    missing = {"openvino", "compiler", "requirements"} - set(said)
    if missing:
        raise StageFailed(f"{what} did not say its {', '.join(sorted(missing))}", f"its whole log is {log}")
    return said


def plain_version(packed: str) -> str:
    """`8.4` for 524292: major in the upper, minor in the lower 16 bits, as oneAPI packs them."""
    number = int(packed)
    return f"{number >> 16}.{number & 0xFFFF}"
