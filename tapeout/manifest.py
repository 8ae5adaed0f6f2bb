"""A bundle's manifest: read it as a stranger's, and hold the bundle's files against it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.digest import is_digest
from export.strict_json import parse_object
from tapeout.bundle_tree import Tree, collisions, name_fault, read_small, read_tree, shown
from tapeout.storage_errors import storage_errors
from targets.errors import InputRefused, IntegrityError

MANIFEST = "manifest.json"
SIGNATURE = "model.sig"
# What no manifest lists: itself, and what signs it.
UNLISTED = frozenset({MANIFEST, SIGNATURE})
SCHEMA_VERSION = 2
COUNT_MAX = 1 << 53

FETCH = "fetch the bundle again; it is not what was built"


def read_manifest(folder: Path) -> dict[str, Any]:
    """A bundle's manifest.

    Raises:
        IntegrityError: there is none, or it is not one.
    """
    return parse_manifest(manifest_bytes(folder), folder)


def manifest_bytes(folder: Path) -> bytes:
    """A manifest as it is on disk.

    Raises:
        IntegrityError: there is none.
    """
    try:
        return read_small(folder / MANIFEST)
    except OSError as error:
        raise IntegrityError(
            f"{folder} has no readable {MANIFEST}: {error.strerror}", "name the folder of a bundle, or build it"
        ) from error


def parse_manifest(data: bytes, folder: Path) -> dict[str, Any]:
    """The manifest in `data`.

    Raises:
        IntegrityError: it is not sound JSON, of another schema, or lists what no bundle holds.
    """
    try:
        manifest = parse_object(data, str(folder / MANIFEST))
    except InputRefused as error:
        raise IntegrityError(error.what, "build the bundle again") from error
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION:
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        step = "update Tapeout" if newer else "build the bundle again"
        raise IntegrityError(f"{folder / MANIFEST} has schema {version!r}; this release reads {SCHEMA_VERSION}", step)
    fault = manifest_fault(manifest)
    if fault is not None:
        raise IntegrityError(f"{folder / MANIFEST} is not a bundle's manifest: {fault}", "build the bundle again")
    return manifest


def manifest_fault(manifest: Mapping[str, Any]) -> str | None:
    """What is wrong with a manifest beside its files; None when nothing is."""
    files, sizes = manifest.get("files"), manifest.get("sizes")
    if not isinstance(files, dict) or not isinstance(sizes, dict) or not files or files.keys() != sizes.keys():
        return "it has not one digest and one size of every file"
    faults = (entry_fault(name, digest, sizes[name]) for name, digest in files.items())
    fault = next((fault for fault in faults if fault is not None), None) or next(collisions(files), None)
    if fault is None and not is_count(manifest.get("sequence")):
        fault = "its sequence is not a whole number"
    if fault is None and not isinstance(manifest.get("packages"), dict):
        fault = "it does not say how its packages are loaded"
    return fault


def entry_fault(name: str, digest: Any, size: Any) -> str | None:
    """What is wrong with what a manifest says of one file."""
    if name in UNLISTED:
        return f"{name} is never listed"
    fault = name_fault(name)
    if fault is not None:
        return f"{shown(name)} {fault}"
    if not isinstance(digest, str) or not is_digest(digest) or not is_count(size):
        return f"{name} has no SHA-256, or no size"
    return None


def is_count(value: Any) -> bool:
    """Whether a value from JSON is a whole number that is not negative and not beyond what every reader holds."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < COUNT_MAX


def compare(manifest: Mapping[str, Any], tree: Tree) -> list[str]:
    """What of a bundle is not as its manifest says: changed, missing or extra files and folders."""
    wanted: Mapping[str, str] = manifest["files"]
    sizes: Mapping[str, int] = manifest["sizes"]
    found = {path: seen for path, seen in tree.files.items() if path not in UNLISTED}
    both = sorted(found.keys() & wanted.keys())
    longer = [path for path in both if found[path].size != sizes[path]]
    resized = [f"{path} was changed: {found[path].size} bytes, not {sizes[path]}" for path in longer]
    changed = [f"{path} was changed" for path in both if path not in longer and found[path].sha256 != wanted[path]]
    missing = [f"{path} is missing" for path in sorted(wanted.keys() - found.keys())]
    extra = [f"{shown(path)} does not belong" for path in sorted(found.keys() - wanted.keys())]
    folders = {parent.as_posix() for path in wanted for parent in Path(path).parents} - {"."}
    strange = [f"the folder {shown(path)} does not belong" for path in sorted(tree.folders - folders)]
    return [*resized, *changed, *missing, *extra, *strange]


def differences(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """What of the bundle in `folder` is not as `manifest` says, links and strange names included."""
    tree = read_tree(folder, (), manifest["sizes"])
    return [*tree.faults, *compare(manifest, tree)]


def is_current(folder: Path, identity: str) -> bool:
    """Whether `folder` is the bundle with this identity, unharmed.

    Raises:
        NoSpace: the disk fails.
    """
    with storage_errors(folder.parent, "choose another --out"):
        if not (folder / MANIFEST).is_file():
            return False
        try:
            manifest = read_manifest(folder)
        except IntegrityError:
            return False  # whatever it is, the bundle takes its place
        return manifest.get("identity") == identity and not differences(folder, manifest)
