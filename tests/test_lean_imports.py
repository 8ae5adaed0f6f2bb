"""Importing is cheap: a device that validates has no builder's libraries, and a command that needs none loads none."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OURS = ("targets", "export", "quantize", "compile", "validate", "tapeout")
HEAVY = ("torch", "transformers", "optimum", "nncf", "openvino", "onnxruntime", "onnx")
# Imports each module it is given; an import that `refused` is true for fails, as on a machine that has not got it.
SCRIPT = """
import importlib, json, sys

class Refusal:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if {refused}:
            raise ModuleNotFoundError(f"{{top}} is refused", name=top)

sys.meta_path.insert(0, Refusal())
failures = {{}}
for module in sys.argv[1:]:
    try:
        importlib.import_module(module)
    except ImportError as error:
        failures[module] = str(error)
print(json.dumps(failures))
"""


def import_without(refused: str, modules: Iterable[str]) -> dict[str, str]:
    """The modules that do not import when every top-level package `top` for which `refused` holds is missing."""
    command = [sys.executable, "-c", SCRIPT.format(refused=refused), *modules]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def modules_of(package: str) -> list[str]:
    paths = sorted((ROOT / package).rglob("*.py"))
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths if path.name != "__init__.py"]


def test_validate_needs_the_standard_library_numpy_and_tokenizers() -> None:
    modules = modules_of("validate")
    assert "validate.report" in modules
    assert import_without(f"top not in {{*sys.stdlib_module_names, 'numpy', 'tokenizers', *{OURS}}}", modules) == {}


def test_naming_every_stage_and_back_end_loads_no_heavy_library() -> None:
    modules = ["compile.backends", "quantize.quantizer", "export.hub", *modules_of("targets"), *modules_of("tapeout")]
    assert import_without(f"top in {HEAVY}", modules) == {}


def test_a_library_that_is_loaded_is_found() -> None:
    assert import_without("top == 'tokenizers'", ["tokenizers", "json"]) == {"tokenizers": "tokenizers is refused"}


# Prints what a command line loaded of the libraries and modules that it was told to look for.
LOADED = """
import runpy, sys

wanted, sys.argv = sys.argv[1].split(), ["tapeout", *sys.argv[2:]]
try:
    runpy.run_module("tapeout", run_name="__main__")
except SystemExit as end:
    print("code", end.code or 0)
print("loaded", *(name for name in wanted if name in sys.modules))
"""


def loaded_by(arguments: Iterable[str], wanted: Iterable[str], folder: Path) -> list[str]:
    """Which of `wanted` a command that ends well has loaded."""
    command = [sys.executable, "-c", LOADED, " ".join(wanted), "--store", str(folder / "store"), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    assert "code 0" in done.stdout.splitlines(), done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


def test_help_and_plan_load_nothing_that_works(tmp_path: Path) -> None:
    works = ("numpy", "rich", "jinja2", "tokenizers", "export.model", "quantize.quantizer", "compile.package")
    measures = ("validate.golden", "validate.latency", "validate.report", *HEAVY)
    assert loaded_by(["--help"], ["pydantic", "targets.target", *works, *measures], tmp_path) == []
    assert loaded_by(["plan", "ryzen"], ["targets.target", *works, *measures], tmp_path) == ["targets.target"]
