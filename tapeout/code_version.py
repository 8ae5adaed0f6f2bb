"""The version of a stage's code: a digest over its module and every module of ours that it reaches."""

import os
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from export.digest import digest_bytes, digest_value

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = frozenset({"targets", "export", "quantize", "compile", "validate", "tapeout"})

OURS = rf"(?:{'|'.join(sorted(PACKAGES))})"
# One line, or names in parentheses over several; `import a.b` is a form that no module of ours may have.
IMPORT = re.compile(rf"^[ \t]*from[ \t]+({OURS}(?:\.\w+)*)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)", re.MULTILINE)
# A string that is a module's name and nothing else, as in tables of classes to import on use.
NAMED = re.compile(rf"[\"']({OURS}(?:\.\w+)+)[\"']")
WORD = re.compile(r"\w+")


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
    """(digest of the source, names of our modules it imports or names as a string such as `validate.x`).

    Looked for in the text: parsing two hundred files would take longer than all else of a build with nothing to do.
    """
    source = path.read_bytes()
    text = source.decode()
    found = {module for pair in IMPORT.findall(text) for module in possible_modules(*pair)}
    return digest_bytes(source), tuple(sorted(found.union(NAMED.findall(text))))


def possible_modules(module: str, names: str) -> Iterator[str]:
    """What `from module import names` may load; a name may be a module too."""
    yield module
    for name in WORD.findall(names):
        yield f"{module}.{name}"


@cache
def sources() -> dict[str, Path]:
    """The file of every module of ours, by its name: listing all takes less time than asking for a thousand names."""
    found = {}
    for package in sorted(PACKAGES):
        for folder, _, files in os.walk(ROOT / package):
            inside = ".".join(Path(folder).relative_to(ROOT).parts)
            found.update({f"{inside}.{name[:-3]}": Path(folder, name) for name in files if name.endswith(".py")})
    return found


def source_of(module: str) -> Path | None:
    """The file of one of our modules, or None for a name inside a module."""
    return sources().get(module)


@cache
def tool_version(name: str) -> str:
    """The installed version of a distribution, or `absent`."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
