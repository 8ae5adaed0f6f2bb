"""What a benchmark compares: packages of a bundle, folders that are named, and peers that the user has installed."""

import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compile.package import Package
from tapeout.revalidate import load_package
from targets.errors import UsageError
from targets.names import choose, suggestion

# Back ends whose packages run on a CPU, and the worker's word for their runtime.
CPU_BACKENDS = {"openvino": "openvino", "onnxruntime": "genai"}
KINDS = ("openvino", "genai", "llama")
KEYS = ("name", "kind", "path", "python", "settings")
# Settings of a package that its runtime reads from the package itself.
WRITTEN_INTO = frozenset({"genai"})


@dataclass(frozen=True)
class Subject:
    """One model in one runtime.

    Attributes:
        name: in tables.
        kind: `openvino` (a folder of OpenVINO GenAI), `genai` (one of ONNX Runtime GenAI) or `llama` (a GGUF file).
        path: of the folder or the file.
        ours: a package of ours rather than a peer.
        python: the interpreter that has its runtime.
        settings: the runtime's properties.
    """

    name: str
    kind: str
    path: Path
    ours: bool
    python: Path = Path(sys.executable)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def bytes(self) -> int:
        """Size of all its files."""
        files = [self.path] if self.path.is_file() else [path for path in self.path.rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in files)


def bundle_subjects(bundle: Path, manifest: Mapping[str, Any]) -> Iterator[Subject]:
    """The packages of a bundle that run on this CPU."""
    for path, entry in manifest["packages"].items():
        if entry["backend"] in CPU_BACKENDS:
            yield package_subject(f"{entry['backend']} {entry['recipe']}", load_package(entry, bundle / path))


def package_subject(name: str, package: Package) -> Subject:
    """A package of ours for this CPU, as it is meant to be loaded."""
    kind = CPU_BACKENDS[package.backend]
    return Subject(name, kind, package.folder, True, settings={} if kind in WRITTEN_INTO else package.settings)


def named_subject(text: str) -> Subject:
    """A subject of ours from `NAME=KIND:PATH`.

    Raises:
        UsageError: it is not of that form, or nothing is there.
    """
    name, equals, rest = text.partition("=")
    kind, colon, path = rest.partition(":")
    if not equals or not colon or not name:
        raise UsageError(f"'{text}' names no package", "write it as NAME=KIND:PATH, such as mine=openvino:folder")
    return checked(Subject(name, kind, Path(path).absolute(), True))


def read_peers(path: Path) -> list[Subject]:
    """The peers that a TOML file lists in `[[peers]]`; paths are relative to the file.

    Raises:
        UsageError: it is no such file, or a key, a kind or a path is wrong.
    """
    try:
        stored = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no list of peers: {error}", "docs/performance.md shows one") from error
    rows = stored.get("peers")
    if set(stored) != {"peers"} or not isinstance(rows, list):
        raise UsageError(f"{path} holds something else than [[peers]]", "docs/performance.md shows such a file")
    return [checked(peer(row, path.absolute().parent)) for row in rows]


def peer(row: Mapping[str, Any], folder: Path) -> Subject:
    """One row of a file of peers."""
    for key in row:
        if key not in KEYS:
            raise UsageError(f"a peer has no key '{key}'", suggestion(key, KEYS))
    for key in KEYS[:3]:
        if not isinstance(row.get(key), str):
            raise UsageError(f"a peer has no {key}", f"every peer has {', '.join(KEYS[:3])}")
    python = folder / row["python"] if "python" in row else Path(sys.executable)
    return Subject(row["name"], row["kind"], folder / row["path"], False, python, row.get("settings", {}))


def checked(subject: Subject) -> Subject:
    """The subject, when its kind is known and its files are there.

    Raises:
        UsageError: they are not.
    """
    choose(subject.kind, dict.fromkeys(KINDS), "kind")
    for path in (subject.path, subject.python):
        if not path.exists():
            raise UsageError(f"{subject.name}: {path} is not there", "docs/performance.md says how to get each peer")
    return subject


def check_names(subjects: Sequence[Subject]) -> None:
    """Refuse a comparison with nothing to compare.

    Raises:
        UsageError: no package of ours, or a name that two have.
    """
    if not any(subject.ours for subject in subjects):
        raise UsageError("there is no package to time", "name a bundle with a CPU package, or --also NAME=KIND:PATH")
    names = [subject.name for subject in subjects]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"two subjects are called '{twice}'", "give each a name of its own")
