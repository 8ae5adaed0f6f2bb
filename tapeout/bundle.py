"""Write the bundle: shipped packages, golden reference, reports and the manifest that names every file."""

import ctypes
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.digest import digest_value, list_files
from tapeout.executor import Done
from tapeout.storage_errors import storage_errors
from tapeout.store import Store
from tapeout.values import plain
from targets.errors import IntegrityError
from targets.target import Target
from validate.report import Report, to_json

MANIFEST = "manifest.json"
REPORT = "report.json"
SCHEMA_VERSION = 1

REBUILD = "build again: it will be made afresh"

RENAME_EXCHANGE = 2
AT_FDCWD = -100


@dataclass(frozen=True)
class Contents:
    """What goes into a bundle.

    Attributes:
        report: of the build.
        target: the target it was judged by, so that the bundle can be judged again where its file is not.
        folders: store results to copy, by path in the bundle.
        packages: how each shipped package is loaded, by path in the bundle.
        golden: the golden reference's value.
        experience: the value of what the float model said in the suites, or None.
    """

    report: Report
    target: Target
    folders: Mapping[str, Done]
    packages: Mapping[str, Any]
    golden: Mapping[str, Any]
    experience: Mapping[str, Any] | None = None

    def identity(self) -> str:
        """Digest of everything that decides the bundle's content, not of how often its stages ran."""
        report = plain(asdict(self.report))
        for stage in report["stages"]:
            stage.pop("cached")
        objects = {path: done.record.object for path, done in self.folders.items()}
        return digest_value(plain({"report": report, "objects": objects, "packages": dict(self.packages)}))


def write_bundle(contents: Contents, store: Store, folder: Path) -> bool:
    """Make `folder` the bundle of `contents`; a reader sees the old one or the new one, never a mixture.

    Returns:
        False when it already was, every file verified.

    Raises:
        NoSpace: the folder's file system is full or not writable.
    """
    identity = contents.identity()
    if is_current(folder, identity):
        return False
    with storage_errors(folder.parent, "free some space, or choose another --out"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".bundle-") as scratch:
            staged = Path(scratch) / "bundle"
            staged.mkdir()
            for path, done in contents.folders.items():
                (staged / path).parent.mkdir(parents=True, exist_ok=True)
                store.materialise(done.record, verified(store, done), staged / path)
            write_reports(contents.report, staged)
            manifest = make_manifest(contents, identity, staged)
            (staged / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            swap(staged, folder)
    return True


def verified(store: Store, done: Done) -> Path:
    """The folder of a result, every file checked.

    Raises:
        IntegrityError: it was damaged, and has been set aside.
    """
    found = store.read(done.record.key)
    if found is None:
        raise IntegrityError(
            f"the stored result of {done.record.stage} was damaged", "build again: it will be made afresh"
        )
    return found[1]


def write_reports(report: Report, folder: Path) -> None:
    """Render the report in every form."""
    from validate.render_html import render_html
    from validate.render_junit import render_junit
    from validate.render_markdown import render_markdown

    forms = {
        REPORT: to_json(report),
        "report.html": render_html(report),
        "report.md": render_markdown(report),
        "junit.xml": render_junit(report),
    }
    for name, text in forms.items():
        (folder / name).write_text(text, encoding="utf-8")


def make_manifest(contents: Contents, identity: str, staged: Path) -> dict[str, Any]:
    """Every file's digest, how each package is loaded, and where it all came from."""
    return {
        "schema_version": SCHEMA_VERSION,
        "identity": identity,
        "target": plain(asdict(contents.target)),
        "model": contents.report.model,
        "verdict": contents.report.verdict,
        "tapeout": contents.report.tapeout,
        "packages": plain(dict(contents.packages)),
        "golden": plain(dict(contents.golden)),
        "experience": plain(contents.experience),
        "stages": [
            {"name": s.name, "key": s.key, "output": s.output, "tools": s.tools} for s in contents.report.stages
        ],
        "files": list_files(staged),
    }


def is_current(folder: Path, identity: str) -> bool:
    """Whether `folder` is the bundle with this identity, unharmed."""
    if not (folder / MANIFEST).is_file():
        return False
    manifest = read_manifest(folder)
    return manifest.get("identity") == identity and not differences(folder, manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """A bundle's manifest.

    Raises:
        IntegrityError: there is none, or it is not one.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(
            f"{folder} has no readable {MANIFEST}: {error}", "name the folder of a bundle, or build it"
        ) from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise IntegrityError(f"{folder / MANIFEST} is not a bundle's manifest", "build the bundle again")
    return manifest


def differences(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """What of the bundle is not as its manifest says: changed, missing or extra files."""
    found = {path: digest for path, digest in list_files(folder).items() if path != MANIFEST}
    wanted: dict[str, str] = manifest["files"]
    changed = [f"{path} was changed" for path in sorted(found.keys() & wanted.keys()) if found[path] != wanted[path]]
    missing = [f"{path} is missing" for path in sorted(wanted.keys() - found.keys())]
    extra = [f"{path} does not belong" for path in sorted(found.keys() - wanted.keys())]
    return [*changed, *missing, *extra]


def swap(staged: Path, folder: Path) -> None:
    """Put `staged` in the place of `folder` in one step; what was there ends up in the scratch folder."""
    if not folder.exists():
        staged.rename(folder)
        return
    if not exchange(staged, folder):
        old = staged.parent / "old"
        folder.rename(old)
        staged.rename(folder)
        shutil.rmtree(old)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders atomically; False where the system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    done = libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE)
    return int(done) == 0
