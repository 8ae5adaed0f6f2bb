"""Look after a store: count what is in it, verify all of it, and remove what nobody needs."""

import fcntl
import stat
import time
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from export.digest import digest_files, list_files
from tapeout.durable_files import listing, remove_tree, sync
from tapeout.file_lock import acquire, release
from tapeout.storage_errors import storage_errors
from tapeout.store import GATE, OBJECTS, Store
from targets.errors import IntegrityError

# Longer than any stage waits between placing its object and using it.
GRACE_SECONDS = 3600


@dataclass(frozen=True)
class Stats:
    """What a store holds.

    Attributes:
        entries: records, damaged ones included.
        objects: folders of files, with or without a record.
        bytes: the size of all objects.
        by_stage: the number of records of each stage.
        stage_bytes: the size of what each stage produced; an object of two stages counts for both.
        tmp: unfinished work, of live and of dead processes.
        quarantine: entries that were found damaged.
    """

    entries: int
    objects: int
    bytes: int
    by_stage: Mapping[str, int]
    stage_bytes: Mapping[str, int]
    tmp: int
    quarantine: int


@dataclass(frozen=True)
class VerifyResult:
    """What reading a whole store found; `damage` has one sentence for everything set aside."""

    objects: int
    records: int
    damage: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether every byte is the one that was stored."""
        return not self.damage


@dataclass(frozen=True)
class GcResult:
    """What was removed, or would be; `busy` when a build was running and nothing was touched."""

    records: int = 0
    objects: int = 0
    bytes: int = 0
    tmp: int = 0
    busy: bool = False


class _Busy(Exception):
    pass


def stats(store: Store) -> Stats:
    """Count what `store` holds, by file sizes; no file is read."""
    records = list(store.records())
    size: Counter[str] = Counter()
    for record in records:
        size[record.stage] += sum(record.sizes.values())
    objects = _objects(store)
    return Stats(
        entries=len(store.keys()),
        objects=len(objects),
        bytes=sum(map(_bytes, objects)),
        by_stage=dict(sorted(Counter(record.stage for record in records).items())),
        stage_bytes=dict(sorted(size.items())),
        tmp=_count(store.tmp),
        quarantine=_count(store.quarantine),
    )


def verify(store: Store) -> VerifyResult:
    """Read every byte of every object and record, and set aside what is damaged.

    Raises:
        NoSpace: its folders cannot be listed, or there is damage and the store cannot be written to.
    """
    damage: list[str] = []
    watched = Store(store.root, warn=damage.append)
    with storage_errors(store.root):
        objects, keys = _objects(store), store.keys()
    for folder in objects:
        if _wrong(folder):
            with watched.hold(GATE, fcntl.LOCK_SH), watched.hold(OBJECTS, fcntl.LOCK_EX):
                # Somebody may have set it aside and built it again since.
                why = _wrong(folder)
                if why:
                    watched.set_aside(why, folder)
    for key in keys:
        watched.lookup(key)
    return VerifyResult(objects=len(objects), records=len(keys), damage=tuple(damage))


def gc(store: Store, keep: Collection[str], older_than_seconds: float, *, dry_run: bool = False) -> GcResult:
    """Remove the records last used before `older_than_seconds` ago, except those of the keys in `keep`, then the
    objects without a record and the scratch folders without a process. Nothing while anybody holds a key's lock.

    Raises:
        NoSpace: the store cannot be written to.
    """

    def busy() -> None:
        raise _Busy

    try:
        with store.hold(GATE, fcntl.LOCK_EX, busy), storage_errors(store.root):
            return _collect(store, keep, older_than_seconds, dry_run=dry_run)
    except _Busy:
        return GcResult(busy=True)


def _collect(store: Store, keep: Collection[str], older_than_seconds: float, *, dry_run: bool) -> GcResult:
    removable = set(store.keys()) - set(keep)
    old = sorted(key for key in removable if _age(store.record_path(key)) >= older_than_seconds)
    dropped = set(old)
    live = {record.object for record in store.records() if record.key not in dropped}
    dead = [path for path in _objects(store) if path.name not in live and _age(path) >= GRACE_SECONDS]
    stale = [path for path in store.tmp.iterdir() if _ownerless(path)]
    result = GcResult(records=len(old), objects=len(dead), bytes=sum(map(_bytes, dead)), tmp=len(stale))
    if not dry_run:
        _remove_records(store, old)
        for folder in dead:
            # A half removed object must not be met under its name.
            moved = store.tmp / folder.name
            folder.rename(moved)
            remove_tree(moved)
        for path in stale:
            remove_tree(path)
        for path in store.locks.iterdir():
            if path.name not in {GATE, OBJECTS}:
                path.unlink()
    return result


def _remove_records(store: Store, keys: Collection[str]) -> None:
    paths = [store.record_path(key) for key in keys]
    for path in paths:
        path.unlink()
    # On disk before any object goes: a power cut must not bring back a record without its object.
    for folder in {path.parent for path in paths}:
        sync(folder)


def _objects(store: Store) -> list[Path]:
    return sorted(store.objects.glob("*/*"))


def _wrong(folder: Path) -> str:
    """What is wrong with an object, as one sentence; empty if nothing is."""
    try:
        listing(folder)
        sound = digest_files(list_files(folder)) == folder.name
    except FileNotFoundError:
        return ""
    except IntegrityError as damage:
        return damage.what
    except OSError as error:
        return f"{folder} cannot be read: {error.strerror}"
    return "" if sound else f"{folder} has not the bytes it was stored with"


def _age(path: Path) -> float:
    """Seconds since last use; a time in the future, as after a clock was set back, counts as now."""
    return time.time() - path.lstat().st_mtime


def _bytes(folder: Path) -> int:
    found = 0
    for path in [folder, *folder.rglob("*")]:
        with suppress(FileNotFoundError):
            status = path.lstat()
            found += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return found


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir()) if folder.exists() else 0


def _ownerless(path: Path) -> bool:
    """Whether no live process holds the scratch folder, or unfinished file, at `path`."""

    def held() -> None:
        raise _Busy

    if path.is_symlink():
        return True
    try:
        release(acquire(path, fcntl.LOCK_EX, held))
    except _Busy:
        return False
    return True
