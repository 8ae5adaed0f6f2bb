"""What is copied to a device: the files that a validation reads, by digest, and Tapeout itself."""

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.digest import digest_file
from tapeout.code_version import PACKAGES, ROOT

# The same files give the same archive, so that a device which has it needs no copy.
LONG_AGO = (1980, 1, 1, 0, 0, 0)
CODE_SUFFIXES = frozenset({".py", ".toml", ".json", ".txt", ".html", ".jinja", ".css", ".jsonl", ".c", ".sh", ".ps1"})


@dataclass(frozen=True)
class Parcel:
    """Everything a device needs beside its runtimes.

    Attributes:
        files: digest by path on the device.
        sources: where each digest's bytes are here.
        sizes: bytes by digest.
        program: digest of the archive of Tapeout's own code.
    """

    files: dict[str, str]
    sources: dict[str, Path]
    sizes: dict[str, int]
    program: str


def pack(bundle: Path, manifest: Mapping[str, Any], packages: Iterable[str], scratch: Path) -> Parcel:
    """What the float model says and the `packages` of a bundle whose files have been verified, with Tapeout's code."""
    folders = ("golden", "experience", *packages)
    files = {
        path: digest
        for path, digest in manifest["files"].items()
        if any(path.startswith(f"{folder}/") for folder in folders)
    }
    sources = {digest: bundle / path for path, digest in files.items()}
    archive = scratch / "program.zip"
    write_program(archive)
    program = digest_file(archive)
    sources[program] = archive
    return Parcel(files, sources, {digest: path.stat().st_size for digest, path in sources.items()}, program)


def write_program(archive: Path) -> None:
    """Our packages as they run here: no tests, no caches, no third party."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.suffix in CODE_SUFFIXES]
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as program:
        for path in sorted(paths):
            entry = zipfile.ZipInfo(path.relative_to(ROOT).as_posix(), LONG_AGO)
            entry.external_attr = 0o644 << 16
            program.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
