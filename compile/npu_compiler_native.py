"""The NPU compiler of an OpenVINO that has one (Windows; Linux with Intel's library): found here, run as a child.

`python -m compile.npu_compiler_native PLATFORM PROBE.xml MODEL.xml OUT.blob KEY VALUE ...` does what `npu_compiler.c`
does, and prints the same lines.
"""

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

PATTERNS = ("libopenvino_intel_npu_compiler*.so*", "openvino_intel_npu_compiler.dll")


@dataclass(frozen=True)
class NativeCompiler:
    """OpenVINO's own, through its Python interface.

    Attributes:
        library: the compiler's file, beside OpenVINO's libraries.
    """

    library: Path

    @property
    def version(self) -> str:
        """Which compiler, for the record."""
        return f"openvino {version('openvino')} ({self.library.name})"

    def prepare(self, cache: Path) -> None:
        """Nothing to fetch or to build."""

    def command(self, cache: Path, arguments: Sequence[str]) -> list[str]:
        """The child's command line."""
        return [sys.executable, "-m", "compile.npu_compiler_native", *arguments]

    def environment(self, cache: Path) -> Mapping[str, str]:
        """The child imports this package, from wherever it is."""
        return {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}

    def path(self, path: Path) -> str:
        """As it is."""
        return str(path)


def find_native(folders: Sequence[Path] | None = None) -> NativeCompiler | None:
    """The compiler beside OpenVINO's libraries, or None; OpenVINO itself is not loaded."""
    if folders is None:
        spec = importlib.util.find_spec("openvino")
        folders = [Path(place) / "libs" for place in (spec.submodule_search_locations or ())] if spec else []
    found = sorted(path for folder in folders for pattern in PATTERNS for path in folder.glob(pattern))
    return NativeCompiler(found[0]) if found else None


def main(arguments: Sequence[str]) -> None:
    """Compile and export."""
    import openvino as ov

    platform, probe, model, blob, *rest = arguments
    properties = dict(zip(rest[::2], rest[1::2], strict=True))
    core = ov.Core()
    say("openvino", ov.get_version())
    small = core.compile_model(probe, "NPU", {"NPU_COMPILER_TYPE": "PLUGIN", "NPU_PLATFORM": platform})
    say("compiler", str(core.get_property("NPU", "NPU_COMPILER_VERSION")))
    say("requirements", str(small.get_property("RUNTIME_REQUIREMENTS")))
    compiled = core.compile_model(model, "NPU", properties)
    with Path(blob).open("wb") as stream:
        compiled.export_model(stream)


def say(name: str, value: str) -> None:
    """One fact, for the parent's log."""
    sys.stdout.write(f"{name} {value}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except RuntimeError as refusal:
        sys.exit(str(refusal))  # OpenVINO's own words, without the way they came
