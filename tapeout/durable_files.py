"""Files and folders that are whole, on disk and nobody else's: list, seal, copy, write, move and remove them."""

import errno
import fcntl
import hashlib
import os
import shutil
import stat
from pathlib import Path
from typing import BinaryIO

from targets.errors import IntegrityError, UsageError

FICLONE = 0x40049409
NO_REFLINK = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS})
OCCUPIED = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR})
CHUNK = 1 << 20


def listing(folder: Path) -> dict[str, os.stat_result]:
    """The status of every file below `folder`, by its path relative to it, with forward slashes.

    Raises:
        IntegrityError: `folder` is not one, or holds a link (soft or hard), a device or a pipe.
        FileNotFoundError: `folder` does not exist.
    """
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise IntegrityError(f"{folder} is not a folder", "remove it and build again")
    found: dict[str, os.stat_result] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            found[path.relative_to(folder).as_posix()] = status
        elif not stat.S_ISDIR(status.st_mode):
            raise IntegrityError(f"{path} is a link or not a regular file", "put a copy in its place and build again")
    return found


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folders(folder: Path) -> None:
    """Wait until the names in `folder` and in every folder below it are on disk, innermost first."""
    for parent, _, _ in os.walk(folder, topdown=False):
        sync(Path(parent))


def seal(folder: Path) -> None:
    """Make every file below `folder` read-only and everything in it durable; `folder` becomes as young as now."""
    os.utime(folder)
    for parent, _, names in os.walk(folder, topdown=False):
        for path in (Path(parent, name) for name in names):
            path.chmod(0o444)
            sync(path)
        # A folder that its owner cannot write to could be neither moved nor removed.
        Path(parent).chmod(0o755)
        sync(Path(parent))


def write_whole(path: Path, data: bytes, temporary: Path) -> None:
    """Put `data` at `path`, durably and at once, by way of the new file `temporary` on the same file system."""
    with temporary.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    sync(path.parent)


def copy_file(source: Path, target: Path) -> str:
    """Copy by reflink where the file system can, else byte by byte; return the SHA-256 of what `target` now holds."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("xb") as writer:
        cloned = _reflink(reader, writer)
        while not cloned and (chunk := reader.read(CHUNK)):
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    if not cloned:
        return digest.hexdigest()
    with target.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _reflink(reader: BinaryIO, writer: BinaryIO) -> bool:
    """Let `writer` share the blocks of `reader` until either is written to; False where that is impossible."""
    try:
        fcntl.ioctl(writer.fileno(), FICLONE, reader.fileno())
    except OSError as error:
        if error.errno not in NO_REFLINK:
            raise
        return False
    return True


def move_new(folder: Path, target: Path) -> None:
    """Rename `folder` to `target`, durably.

    Raises:
        UsageError: `target` is there already and is not an empty folder.
    """
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno not in OCCUPIED:
            raise
        raise UsageError(f"{target} exists already", "remove it, or choose another folder") from error
    sync(target.parent)
    sync(folder.parent)


def remove_tree(path: Path) -> None:
    """Remove a file or a folder with all it holds, whatever its modes; nothing there is fine too."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        for parent, _, _ in os.walk(path):
            Path(parent).chmod(0o700)
        shutil.rmtree(path)
