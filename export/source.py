"""What a user may name as a model, and what identifies its content."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from export.catalog import CATALOG
from export.digest import digest_file, digest_files
from export.folder_listing import list_model_files
from targets.errors import InputRefused, UsageError
from targets.names import suggestion

_HUB = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})@(?P<revision>[0-9a-f]{40})", re.ASCII)
_HUB_HELP = "write hf:owner/name@REVISION, REVISION being the 40 hex digits of a commit: a branch can change"


@dataclass(frozen=True)
class LocalFolder:
    """A Hugging Face folder on this machine."""

    path: Path


@dataclass(frozen=True)
class HubId:
    """A repository of the Hugging Face Hub at one commit of 40 hex digits."""

    owner_name: str
    revision: str


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file on this machine."""

    path: Path


@dataclass(frozen=True)
class CatalogName:
    """A model of our catalog."""

    name: str


Source = LocalFolder | HubId | GgufFile | CatalogName


def parse_source(text: str) -> Source:
    """The source that `text` names: `hf:owner/name@revision`, a name of the catalog, a folder, or a GGUF file.

    A catalog name wins over a folder of the same name, which `./name` still reaches.

    Raises:
        UsageError: nothing of that name exists, or a Hub id has no pinned revision.
        InputRefused: the path is a file that is not GGUF.
    """
    if not text:
        raise UsageError("the name of the model is empty", suggestion(text, CATALOG))
    if text.startswith("hf:"):
        return _hub(text)
    if text in CATALOG:
        return CatalogName(text)
    try:
        return _path(text, Path(text).expanduser())
    # A name too long, a NUL in it, or the home folder of nobody.
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{text[:200]!r} cannot be a path: {reason}", "give the path of a folder or file") from error


def source_name(source: Source) -> str:
    """A short name for the model, fit for a folder: lower-case letters, digits, dot, dash and underscore."""
    match source:
        case CatalogName(name):
            return name
        case HubId(owner_name):
            text = owner_name.rpartition("/")[2]
        case LocalFolder(path):
            text = path.resolve().name
        case GgufFile(path):
            text = path.stem
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip(".-") or "model"


def source_identity(source: Source, digest: Callable[[Path], str] = digest_file) -> dict[str, str]:
    """What a cache key takes from `source`: its kind and name, and a digest or a pinned revision of its content.

    Args:
        source: a model.
        digest: gives the SHA-256 of a file's bytes.

    Raises:
        InputRefused: a local file or folder is missing, claims more bytes than its disk has, or holds what we do not
            load.
    """
    identity = {"name": source_name(source)}
    whole = partial(_digest_whole, digest=digest)
    match source:
        case CatalogName(name):
            return identity | {"kind": "catalog", "sha256": CATALOG[name].member_sha256}
        case HubId(owner_name, revision):
            return identity | {"kind": "hub", "id": owner_name, "revision": revision}
        case LocalFolder(path):
            return identity | {"kind": "folder", "sha256": _readable(path, partial(_digest_folder, digest=whole))}
        case GgufFile(path):
            return identity | {"kind": "gguf", "sha256": _readable(path, whole)}


def _hub(text: str) -> HubId:
    found = _HUB.fullmatch(text.removeprefix("hf:"))
    if found is None or ".." in text:
        raise UsageError(f"'{text[:200]}' does not name a repository at a pinned revision", _HUB_HELP)
    return HubId(found["name"], found["revision"])


def _path(text: str, path: Path) -> Source:
    if path.is_dir():
        return LocalFolder(path)
    if path.is_file():
        if path.suffix.lower() == ".gguf":
            return GgufFile(path)
        raise InputRefused(f"{path} is not a GGUF file", "give a .gguf file, or the folder with the safetensors file")
    if path.suffix.lower() == ".gguf" or len(path.parts) > 1:
        hint = f"for the Hugging Face Hub {_HUB_HELP}" if re.fullmatch(r"[\w.-]+/[\w.-]+", text) else "check the path"
        raise UsageError(f"there is no file or folder '{text[:200]}'", hint)
    raise UsageError(f"there is no model '{text[:200]}', in the catalog or as a path", suggestion(text, CATALOG))


def _digest_whole(path: Path, digest: Callable[[Path], str]) -> str:
    """The digest of a file that can be what it claims: a hole of a terabyte would be read for half an hour."""
    size, disk = path.stat().st_size, shutil.disk_usage(path).total
    if size > disk:
        raise InputRefused(
            f"{path} claims {size / 1e9:.0f} GB on a disk of {disk / 1e9:.0f} GB: most of it was never written",
            "get the model again from where it is published",
        )
    return digest(path)


def _digest_folder(path: Path, digest: Callable[[Path], str]) -> str:
    return digest_files({name: digest(path / name) for name in list_model_files(path)})


def _readable(path: Path, digest: Callable[[Path], str]) -> str:
    try:
        return digest(path)
    except OSError as error:
        raise InputRefused(f"{path} cannot be read: {error.strerror}", "check the path and its permissions") from error
