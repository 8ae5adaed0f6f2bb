"""The content-addressed store: what every stage produced, under the key of what it was asked for.

    VERSION                       the format of this folder
    objects/ab/<tree digest>/     one folder of read-only files, named by the digest of its files
    actions/ab/<key>.json         one Record: which object a key produced
    tmp/ quarantine/ locks/

Nothing appears under objects/ or actions/ before it is whole and on disk, the record after the object it names.
Nothing is linked in or out: onnx refuses linked external data, and an edit through a link would alter both.
"""

import errno
import fcntl
import logging
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from export.digest import digest_files, is_digest, list_files
from tapeout.durable_files import copy_file, listing, move_new, remove_tree, seal, sync, sync_folders, write_whole
from tapeout.file_lock import acquire, release
from tapeout.stage_key import Provenance, Record
from tapeout.storage_errors import FAILING, FULL, storage_errors
from targets.errors import IntegrityError, StageFailed, UsageError

FORMAT = 1
LOG = logging.getLogger(__name__)
LOST = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EIO})
REBUILD = "build again; the stage will be repeated"

# Held shared by whoever builds or changes anything, exclusively by the collection of garbage.
GATE = "gate"
# Held exclusively while an object is placed or set aside, so that nobody sets aside what was rebuilt meanwhile.
OBJECTS = "objects"


class Store:
    """One folder shared by any number of processes of one machine, killed at any point.

    Every method raises NoSpace when the store's file system is full or not writable, and UsageError for a key
    that is not 64 hex digits.
    """

    def __init__(self, root: Path, warn: Callable[[str], None] = LOG.warning) -> None:
        """Use the store at `root`, which is made at the first write; `warn` hears of every damage found.

        Raises:
            UsageError: `root` holds something else, or a store of a newer format.
            IntegrityError: its VERSION is not a number.
        """
        self.root = root.absolute()
        self.objects, self.actions, self.tmp, self.quarantine, self.locks = self._folders = tuple(
            self.root / name for name in ("objects", "actions", "tmp", "quarantine", "locks")
        )
        self._warn = warn
        self._verified: dict[str, dict[str, tuple[int, int, int]]] = {}
        with storage_errors(self.root):
            self._check_format()

    def lookup(self, key: str) -> Record | None:
        """The record of `key` if its object is there with the right files and sizes; no file is read."""
        return self._find(key, deep=False)

    def read(self, key: str) -> tuple[Record, Path] | None:
        """The record of `key` and its folder, every file verified; a damaged entry is set aside and is a miss."""
        record = self._find(key, deep=True)
        if record is None:
            return None
        folder = self.object_path(record.object)
        # The times of last use steer the collection of garbage; a store that cannot keep them is still readable.
        with suppress(OSError):
            os.utime(self.record_path(key))
            os.utime(folder)
        return record, folder

    def publish(self, key: str, folder: Path, provenance: Provenance) -> Record:
        """Move `folder`, made below a scratch folder, into the store as what `key` produced.

        Raises:
            StageFailed: `folder` is not below a scratch folder of this store.
            IntegrityError: it holds a link or anything but files and folders.
        """
        if self.tmp not in folder.absolute().parents:
            raise StageFailed(f"{folder} is not a scratch folder of the store", "make it with Store.scratch()")
        with self.hold(GATE, fcntl.LOCK_SH), storage_errors(self.root):
            sizes = {name: found.st_size for name, found in listing(folder).items()}
            seal(folder)
            files = list_files(folder)
            made = Record(**vars(provenance), key=key, object=digest_files(files), files=files, sizes=sizes)
            record = Record.decode(made.encode())
            self._place(folder, record)
            self._write(self.record_path(key), made.encode())
            return record

    def materialise(self, record: Record, path: Path, target: Path) -> None:
        """Copy the files of `record` out of its folder `path` to `target`, which appears whole or not at all.

        Raises:
            IntegrityError: a file is missing or differs from its recorded digest; the next `read` sets it aside.
            UsageError: `target` exists and is not an empty folder.
            NoSpace: the file system of `target` is full or not writable.
        """
        self._check_object(record, deep=False)
        with storage_errors(target.parent, "choose another output folder"):
            staged = target.absolute().parent / f".{target.name}.{secrets.token_hex(4)}"
            staged.mkdir(parents=True)
            try:
                for name, digest in record.files.items():
                    (staged / name).parent.mkdir(parents=True, exist_ok=True)
                    if copy_file(path / name, staged / name) != digest:
                        self._verified.pop(record.object, None)
                        raise IntegrityError(f"{path / name} differs from its digest", REBUILD)
                sync_folders(staged)
                move_new(staged, target)
            finally:
                remove_tree(staged)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A new private folder on the store's file system, removed on the way out, whatever the reason."""
        with self.hold(GATE, fcntl.LOCK_SH), storage_errors(self.root):
            folder = Path(tempfile.mkdtemp(dir=self.tmp))
            # Garbage collection may take a folder that nobody holds; a crash lets go of it.
            handle = acquire(folder, fcntl.LOCK_EX)
        try:
            with storage_errors(folder, codes=FULL | FAILING):
                yield folder
        finally:
            try:
                with storage_errors(self.root):
                    remove_tree(folder)
            finally:
                with storage_errors(self.root):
                    release(handle)

    @contextmanager
    def lock(self, key: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Be the only builder of `key`; `waiting` is called before waiting for another. Not reentrant."""
        name = _checked(key)
        with self.hold(GATE, fcntl.LOCK_SH, waiting), self.hold(name, fcntl.LOCK_EX, waiting):
            yield

    @contextmanager
    def hold(self, name: str, mode: int, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the lock file `name` in a mode of flock; what `waiting` raises ends the wait before it starts."""
        with storage_errors(self.root):
            for folder in self._folders:
                folder.mkdir(parents=True, exist_ok=True)
            handle = acquire(self.locks / name, mode, waiting)
        try:
            with storage_errors(self.root):
                self._mark_format()
            yield
        finally:
            with storage_errors(self.root):
                release(handle)

    def keys(self) -> list[str]:
        """Every key with a record, damaged or not."""
        return sorted(path.stem for path in self.actions.glob("*/*.json"))

    def records(self, stage: str | None = None) -> Iterator[Record]:
        """Every undamaged record, or those of one stage; their objects are not looked at."""
        for key in self.keys():
            with suppress(IntegrityError):
                record = self._load(key)
                if record is not None and stage in {None, record.stage}:
                    yield record

    def record_path(self, key: str) -> Path:
        """Where the record of `key` is or would be."""
        return self.actions / _checked(key)[:2] / f"{key}.json"

    def object_path(self, digest: str) -> Path:
        """Where the object `digest` is or would be."""
        return self.objects / digest[:2] / digest

    def set_aside(self, why: str, *paths: Path) -> None:
        """Move damage to quarantine/ and say so. The caller holds OBJECTS."""
        with storage_errors(self.root):
            for path in paths:
                with suppress(FileNotFoundError):
                    path.rename(self.quarantine / f"{path.name}.{secrets.token_hex(4)}")
        self._verified.clear()
        self._warn(f"{why}: set aside in {self.quarantine}")

    def _check_format(self) -> None:
        version = self.root / "VERSION"
        # Listed before VERSION is looked for: another process may be making this store now.
        names = {path.name for path in self.root.iterdir()} if self.root.is_dir() else set()
        if not version.exists():
            if self.root.is_file() or names - {version.name, *(folder.name for folder in self._folders)}:
                raise UsageError(f"{self.root} is not a store", "choose an empty folder with --store or TAPEOUT_STORE")
            return
        text = version.read_text(errors="replace").strip()
        if not text.isdecimal():
            raise IntegrityError(f"{version} is damaged", f"write {FORMAT} to it, or choose another --store")
        if int(text) > FORMAT:
            raise UsageError(
                f"{self.root} has format {text}, newer than this version's {FORMAT}",
                "upgrade tapeout, or choose another store with --store or TAPEOUT_STORE",
            )

    def _mark_format(self) -> None:
        version = self.root / "VERSION"
        if not version.exists():
            self._write(version, f"{FORMAT}\n".encode())

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(exist_ok=True)
        sync(path.parent.parent)
        write_whole(path, data, self.tmp / secrets.token_hex(8))

    def _place(self, folder: Path, record: Record) -> None:
        target = self.object_path(record.object)
        target.parent.mkdir(exist_ok=True)
        sync(self.objects)
        with self.hold(OBJECTS, fcntl.LOCK_EX):
            if os.path.lexists(target):
                try:
                    self._check_object(record, deep=True)
                except IntegrityError as damage:
                    self.set_aside(damage.what, target)
            if not target.exists():
                move_new(folder, target)
                return
            os.utime(target)
        remove_tree(folder)

    def _find(self, key: str, *, deep: bool) -> Record | None:
        with storage_errors(self.root):
            try:
                return self._sound(key, deep=deep)
            except IntegrityError:
                with self.hold(GATE, fcntl.LOCK_SH), self.hold(OBJECTS, fcntl.LOCK_EX):
                    return self._sound_or_set_aside(key, deep=deep)

    def _sound(self, key: str, *, deep: bool) -> Record | None:
        record = self._load(key)
        if record is not None:
            self._check_object(record, deep=deep)
        return record

    def _sound_or_set_aside(self, key: str, *, deep: bool) -> Record | None:
        paths = [self.record_path(key)]
        try:
            record = self._load(key)
            if record is not None:
                paths.append(self.object_path(record.object))
                self._check_object(record, deep=deep)
        except IntegrityError as damage:
            self.set_aside(damage.what, *paths)
            return None
        return record

    def _load(self, key: str) -> Record | None:
        path = self.record_path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            record = Record.decode(data)
        except IntegrityError as error:
            raise IntegrityError(f"{path} is damaged", REBUILD) from error
        if record.key != key:
            raise IntegrityError(f"{path} is the record of another key", REBUILD)
        return record

    def _check_object(self, record: Record, *, deep: bool) -> None:
        folder = self.object_path(record.object)
        try:
            found = listing(folder)
            if {name: one.st_size for name, one in found.items()} != record.sizes:
                raise IntegrityError(f"{folder} has not the files it was stored with", REBUILD)
            marks = {name: (one.st_ino, one.st_size, one.st_mtime_ns) for name, one in found.items()}
            if deep and self._verified.get(record.object) != marks:
                if list_files(folder) != record.files:
                    raise IntegrityError(f"{folder} has not the bytes it was stored with", REBUILD)
                self._verified[record.object] = marks
        except OSError as error:
            if error.errno not in LOST:
                raise
            raise IntegrityError(f"{folder} cannot be read: {error.strerror}", REBUILD) from error


def _checked(key: str) -> str:
    if not is_digest(key):
        raise UsageError(f"'{key}' is not a stage key", "a key is 64 hex digits, as `tapeout plan` prints it")
    return key
