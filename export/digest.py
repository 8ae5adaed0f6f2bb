"""SHA-256 digests of values, files and folders: the identity of everything Tapeout stores or ships."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from targets.errors import IntegrityError


def digest_bytes(data: bytes) -> str:
    """The 64 hex digits of SHA-256 over `data`."""
    return hashlib.sha256(data).hexdigest()


def digest_parts(*parts: bytes | memoryview) -> str:
    """The 64 hex digits of SHA-256 over `parts`, one after the other."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def digest_file(path: Path) -> str:
    """The 64 hex digits of SHA-256 over a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_digest(text: str) -> bool:
    """Whether `text` is 64 lowercase hex digits."""
    return len(text) == 64 and not set(text) - set("0123456789abcdef")


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal bytes on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_value(value: Any) -> str:
    """The digest of a JSON value in its canonical form."""
    return digest_bytes(canonical_json(value))


def list_files(folder: Path) -> dict[str, str]:
    """Digest of every file below `folder`, keyed by its path relative to it, with forward slashes.

    Raises:
        IntegrityError: the folder holds something that is neither a regular file nor a folder (a link, a device).
    """
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise IntegrityError(f"{path} is not a regular file", "remove the link and build again")
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = digest_file(path)
    return found


def digest_files(files: Mapping[str, str]) -> str:
    """The digest of a folder, given the digest of each of its files (as from `list_files`)."""
    return digest_value(dict(files))
