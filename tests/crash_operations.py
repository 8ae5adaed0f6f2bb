"""What the store does, as operations that can be interrupted anywhere, and what must hold after every interruption."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tapeout.bundle
from export.digest import digest_bytes, digest_files, list_files
from tapeout.bundle import swap
from tapeout.manifest import MANIFEST, SCHEMA_VERSION, differences, read_manifest
from tapeout.stage_key import Provenance, Record
from tapeout.storage_errors import storage_errors
from tapeout.store import Store
from tapeout.store_care import gc, verify

Files = Mapping[str, bytes]
OLD, NEW = digest_bytes(b"old"), digest_bytes(b"new")
FILES: dict[str, Files] = {
    OLD: {"graph.onnx": b"old graph" * 50, "weights.bin": bytes(range(256)) * 20},
    NEW: {"graph.onnx": b"new graph" * 50, "data/weights.bin": bytes(range(255, -1, -1)) * 20},
}
DAY = 24 * 3600


@dataclass(frozen=True)
class Operation:
    """Something that is interrupted.

    Attributes:
        work: what is done in a folder that holds a store and a place for bundles.
        prepare: how the folder looks before.
        keys: what the store may and, when all went well, must hold afterwards.
        bundle: the keys whose files `out` may hold; empty where nothing is written there.
        damaged: the store is damaged before, so that the first look may still find damage.
    """

    work: Callable[[Path], object]
    prepare: Callable[[Path], object]
    keys: tuple[str, ...]
    bundle: tuple[str, ...] = ()
    damaged: bool = False
    collects: bool = False


def store_in(root: Path) -> Store:
    return Store(root / "store", warn=lambda _: None)


def fill(folder: Path, files: Files) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def provenance(key: str) -> Provenance:
    return Provenance(stage="hub", version="1", parameters={"key": key}, inputs={}, tools={})


def put(key: str, root: Path) -> Record:
    store = store_in(root)
    with store.lock(key), store.scratch() as scratch:
        fill(scratch, FILES[key])
        return store.publish(key, scratch, provenance(key))


def put_naively(key: str, root: Path) -> None:
    """What a cache without a temporary file, a rename or a lock does: write everything where it belongs."""
    store = store_in(root)
    scratch = root / "naive"
    shutil.rmtree(scratch, ignore_errors=True)
    fill(scratch, FILES[key])
    sizes = {name: len(data) for name, data in FILES[key].items()}
    files = list_files(scratch)
    record = Record(**vars(provenance(key)), key=key, object=digest_files(files), files=files, sizes=sizes)
    store.record_path(key).parent.mkdir(parents=True, exist_ok=True)
    store.record_path(key).write_bytes(record.encode())
    fill(store.object_path(record.object), FILES[key])


def damage(key: str, root: Path) -> None:
    put(key, root)
    store = store_in(root)
    found = store.lookup(key)
    assert found is not None
    path = store.object_path(found.object) / "graph.onnx"
    path.chmod(0o644)
    path.write_bytes(b"X" + path.read_bytes()[1:])


def read_damaged(root: Path) -> None:
    assert store_in(root).read(OLD) is None


def copy_out(key: str, root: Path) -> None:
    store = store_in(root)
    found = store.read(key)
    assert found is not None
    shutil.rmtree(root / "out", ignore_errors=True)
    store.materialise(*found, root / "out")


def write_bundle(key: str, root: Path) -> None:
    """`write_bundle` with one stored result; rendering reports reaches no file and takes seconds: it is left out."""
    store = store_in(root)
    record = store.lookup(key)
    assert record is not None
    contents: Any = SimpleNamespace(
        folders={"package": SimpleNamespace(record=record)}, identity=key, report=None, evidence=None
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tapeout.bundle, "write_reports", lambda _, folder: (folder / "report.json").write_text("{}"))
        patch.setattr(tapeout.bundle, "write_documents", lambda *_: None)
        patch.setattr(tapeout.bundle, "make_manifest", lambda _, identity, staged: plain_manifest(identity, staged))
        tapeout.bundle.write_bundle(contents, store, root / "out")


def plain_manifest(identity: str, folder: Path) -> dict[str, Any]:
    """The least that a manifest has to say of what is in `folder`."""
    files = list_files(folder)
    sizes = {path: (folder / path).stat().st_size for path in files}
    least = {"schema_version": SCHEMA_VERSION, "sequence": 0, "packages": {}}
    return {**least, "identity": identity, "files": files, "sizes": sizes}


def swap_folders(root: Path) -> None:
    staged = root / "scratch" / "staged"
    shutil.rmtree(root / "scratch", ignore_errors=True)
    with storage_errors(root):  # as in `write_bundle`, where both happen
        fill(staged, FILES[NEW])
        swap(staged, root / "out")


def age(root: Path) -> None:
    store = store_in(root)
    then = time.time() - 2 * DAY
    for path in [*store.objects.glob("*/*"), *store.actions.glob("*/*"), *store.tmp.iterdir()]:
        os.utime(path, (then, then))


def two_old_ones_and_litter(root: Path) -> None:
    put(OLD, root)
    put(NEW, root)
    fill(store_in(root).tmp / "left", {"half": b"x"})
    age(root)


def an_older_bundle(root: Path) -> None:
    put(OLD, root)
    put(NEW, root)
    write_bundle(OLD, root)


def collect(root: Path) -> None:
    gc(store_in(root), {OLD}, DAY)


def lock_only(root: Path) -> None:
    store = store_in(root)
    with store.lock(NEW), store.hold("objects", fcntl.LOCK_EX):
        pass


OPERATIONS: dict[str, Operation] = {
    "first put": Operation(partial(put, NEW), lambda root: None, (NEW,)),
    "publish": Operation(partial(put, NEW), partial(put, OLD), (OLD, NEW)),
    "publish over damage": Operation(partial(put, OLD), partial(damage, OLD), (OLD,), damaged=True),
    "materialise": Operation(partial(copy_out, OLD), partial(put, OLD), (OLD,), (OLD,)),
    "read and quarantine": Operation(read_damaged, partial(damage, OLD), (), damaged=True),
    "verify": Operation(lambda root: verify(store_in(root)), partial(damage, OLD), (), damaged=True),
    "collect": Operation(collect, two_old_ones_and_litter, (OLD,), collects=True),
    "lock": Operation(lock_only, partial(put, OLD), (OLD,)),
    "write bundle": Operation(partial(write_bundle, NEW), partial(put, NEW), (NEW,), (NEW,)),
    "replace bundle": Operation(
        partial(write_bundle, NEW),
        an_older_bundle,
        (OLD, NEW),
        (OLD, NEW),
    ),
    "swap": Operation(swap_folders, lambda root: fill(root / "out", FILES[OLD]), (), (OLD, NEW)),
}


def violations(operation: Operation, root: Path, *, disk_error: bool) -> list[str]:
    """What of the promises is broken in `root` after an interruption; a disk error may cost an entry, never a byte."""
    store = store_in(root)
    wrong = []
    found = verify(store)
    if not (found.clean or operation.damaged or disk_error):
        wrong.append(f"verify finds {found.damage}")
    if not verify(store).clean:
        wrong.append("verify does not settle")
    for key, files in FILES.items():
        entry = store.read(key)
        if entry is not None and contents(entry[1]) != files:
            wrong.append("a partial entry is visible")
    return wrong + bundle_violations(operation, root / "out")


def bundle_violations(operation: Operation, out: Path) -> list[str]:
    """What is wrong with the folder beside the store: it is not there, or it is one whole result."""
    if not out.exists():
        return ["the bundle is gone"] if len(operation.bundle) > 1 else []
    if (out / MANIFEST).is_file():
        differing = differences(out, read_manifest(out))
        return [f"the bundle is mixed: {differing}"] if differing else []
    if contents(out) not in [FILES[key] for key in operation.bundle]:
        return [f"a partial folder is visible: {sorted(contents(out))}"]
    return []


def rerun_violations(operation: Operation, root: Path) -> list[str]:
    """What is wrong after the same was done again without a fault."""
    # Somebody builds first what a disk error has cost.
    for key in operation.keys:
        if operation.bundle and store_in(root).read(key) is None:
            put(key, root)
    if operation.work is read_damaged and store_in(root).lookup(OLD) is None:
        put(OLD, root)
        damage(OLD, root)
    operation.work(root)
    store = store_in(root)
    wrong = [] if verify(store).clean or operation.damaged else ["verify is not clean after a rerun"]
    for key in operation.keys:
        entry = store.read(key)
        lost = entry is None and not operation.collects
        if lost or (entry is not None and contents(entry[1]) != FILES[key]):
            wrong.append(f"{key[:8]} is not there after a rerun")
    if operation.bundle:
        final = contents(root / "out")
        wanted = FILES[operation.bundle[-1]]
        inside = {name.removeprefix("package/"): data for name, data in final.items()}
        wrong += [] if wanted.items() <= inside.items() else ["the rerun left no whole folder"]
    gc(store, store.keys(), 0)
    wrong += [f"litter: {path}" for path in store.tmp.iterdir()] if store.tmp.exists() else []
    return wrong


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
