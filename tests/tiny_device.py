"""A device for tests: a Python of its own that has the runtimes and refuses whatever builds a model."""

import subprocess
import sys
import sysconfig
from pathlib import Path

# As on a device that has the `device` extra: the rest of the shared site-packages is not there.
REFUSED = ("torch", "transformers", "optimum", "nncf", "onnx", "onnx_ir", "onnxscript", "gguf", "safetensors")

SITE = """
import sys

class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused}:
            raise ModuleNotFoundError(name + " is not on this device", name=name)

sys.meta_path.insert(0, Refusal())
"""


def make_python(folder: Path) -> Path:
    """An interpreter with the libraries of this one, but without Tapeout and without `REFUSED`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    site = next(folder.glob("lib/python*/site-packages"))
    # A path in a .pth file is searched, and its own .pth files are not read: the editable Tapeout stays out.
    (site / "runtimes.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    (site / "sitecustomize.py").write_text(SITE.format(refused=REFUSED), encoding="utf-8")
    return folder / "bin" / "python"


def wrap(python: Path, path: Path, before: str) -> Path:
    """A script that runs lines of shell, then `python`."""
    path.write_text(f'#!/bin/sh\n{before}\nexec {python} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def install(folder: Path, name: str, version: str) -> None:
    """The metadata of a distribution, as pip leaves it."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
