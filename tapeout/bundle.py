"""Write the bundle: shipped packages, golden reference, reports and the manifest that names every file."""

import ctypes
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.digest import digest_value, list_files
from tapeout.claims import claims_of
from tapeout.documents import Evidence, write_documents
from tapeout.executor import Done
from tapeout.manifest import MANIFEST, SCHEMA_VERSION, is_current
from tapeout.remote_needs import runtime_versions
from tapeout.storage_errors import storage_errors
from tapeout.store import Store
from tapeout.tiers import tiers_of
from tapeout.values import plain
from targets.errors import IntegrityError
from targets.target import Target
from validate.report import Report, to_json

if TYPE_CHECKING:
    from tapeout.sign import Signer

REPORT = "report.json"

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
        sequence: which release of the product this is; a device may refuse one that is older than it asks for.
        evidence: what was asked for, and the chain from the source to the packages.
    """

    report: Report
    target: Target
    folders: Mapping[str, Done]
    packages: Mapping[str, Any]
    golden: Mapping[str, Any]
    experience: Mapping[str, Any] | None = None
    sequence: int = 0
    evidence: Evidence = field(default_factory=Evidence)

    @cached_property
    def identity(self) -> str:
        """Digest of everything that decides the bundle's content, not of how often its stages ran."""
        report = plain(asdict(self.report))
        for stage in report["stages"]:
            stage.pop("cached")
        objects = {path: done.record.object for path, done in self.folders.items()}
        whole = {
            "report": report,
            "objects": objects,
            "packages": dict(self.packages),
            "sequence": self.sequence,
            "evidence": asdict(self.evidence),
        }
        return digest_value(plain(whole))


def write_bundle(contents: Contents, store: Store, folder: Path, signer: "Signer | None" = None) -> bool:
    """Make `folder` the bundle of `contents`; a reader sees the old one or the new one, never a mixture.

    With a `signer` it is signed before it appears.

    Returns:
        False when it already was, every file verified.

    Raises:
        NoSpace: the folder's file system is full or not writable.
    """
    identity = contents.identity
    if is_current(folder, identity):
        sign_with(signer, folder)
        return False
    with storage_errors(folder.parent, "free some space, or choose another --out"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".bundle-") as scratch:
            staged = Path(scratch) / folder.name  # a signature names the folder it was made for
            staged.mkdir()
            for path, done in contents.folders.items():
                (staged / path).parent.mkdir(parents=True, exist_ok=True)
                store.materialise(done.record, verified(store, done), staged / path)
            write_reports(contents.report, staged)
            write_documents(contents.report, contents.evidence, identity, staged)
            manifest = make_manifest(contents, identity, staged)
            (staged / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            sign_with(signer, staged)
            swap(staged, folder)
    return True


def sign_with(signer: "Signer | None", folder: Path) -> None:
    """Sign the bundle, if there is somebody to sign it. Whoever measures on a device needs no cryptography."""
    if signer is not None:
        from tapeout.sign import sign_bundle

        sign_bundle(folder, signer)


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
    files = list_files(staged)
    manifest: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "identity": identity,
        "sequence": contents.sequence,
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
        "files": files,
        "sizes": {path: (staged / path).stat().st_size for path in files},
    }
    devices = {device.name: device for device in contents.target.devices}
    return manifest | {
        "tiers": tiers_of(files, manifest["packages"]),
        "claims": {
            path: claims_of(devices[package["device"]], package, runtime_versions(manifest, path), platform.system())
            for path, package in manifest["packages"].items()
        },
    }


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
