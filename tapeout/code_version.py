"""The version of a stage's code: a digest over its module and every module of ours that it reaches."""

import ast
import threading
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from export.digest import digest_bytes, digest_value

ROOT = Path(__file__).resolve().parent.parent
# CPython 3.11 counts the depth of a syntax tree in one place for all threads, and fails when two build one at once.
PARSING = threading.Lock()
PACKAGES = frozenset({"targets", "export", "quantize", "compile", "validate", "tapeout"})


@cache
def code_version(modules: tuple[str, ...]) -> str:
    """SHA-256 over the sources of `modules` and all that they import of ours, directly or not, at any depth."""
    seen: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = source_of(name)
        if name in seen or path is None:
            continue
        seen[name], imported = read_module(path)
        waiting.extend(imported)
    return digest_value(seen)


@cache
def read_module(path: Path) -> tuple[str, tuple[str, ...]]:
    """(digest of the source, names of our modules it imports or names as a string such as `validate.x:Y`)."""
    source = path.read_bytes()
    found = set()
    with PARSING:
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and is_module_name(node.value):
            found.add(node.value)
    return digest_bytes(source), tuple(sorted(found))


def is_module_name(text: str) -> bool:
    """Whether a string names one of our modules, as tables of classes to import on use do."""
    return text.partition(".")[0] in PACKAGES and text.replace(".", "").replace("_", "").isalnum() and "." in text


def source_of(module: str) -> Path | None:
    """The file of one of our modules, or None for a name inside a module."""
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return path if path.is_file() else None


@cache
def tool_version(name: str) -> str:
    """The installed version of a distribution, or `absent`."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
