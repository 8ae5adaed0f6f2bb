"""Read a folder that nobody vouches for: each file's size and digest through one descriptor, and no link followed."""

import hashlib
import os
import stat
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

NAME_BYTES_MAX = 1024
# What is kept to be parsed: the very bytes that were hashed, so that nobody can change them in between.
KEPT_BYTES_MAX = 64 << 20
# O_NONBLOCK: opening a pipe must not wait for whoever writes to it.
FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class FileSeen:
    """A file: how many bytes, and their SHA-256; None when it was not worth reading."""

    size: int
    sha256: str | None


@dataclass(frozen=True)
class Tree:
    """What a folder holds.

    Attributes:
        files: by path relative to the folder, with forward slashes.
        folders: every folder below it.
        faults: what must not be there, one sentence each: links, devices, names that mean different things to
            different systems.
        kept: the bytes of the files that were to be kept.
    """

    files: dict[str, FileSeen] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    kept: dict[str, bytes] = field(default_factory=dict)


class TreeReader:
    """Reads one folder."""

    def __init__(self, keep: Collection[str], sizes: Mapping[str, int]) -> None:
        self.keep = keep
        self.sizes = sizes
        self.tree = Tree()

    def look(self, path: str, name: str, handle: int) -> None:
        """Take note of one entry of the open folder `handle`."""
        faults = self.tree.faults
        fault = name_fault(path)
        if fault is not None:
            faults.append(f"{shown(path)} {fault}")
        found = os.lstat(name, dir_fd=handle)
        if stat.S_ISDIR(found.st_mode):
            self.tree.folders.add(path)
        elif stat.S_ISLNK(found.st_mode):
            faults.append(f"{shown(path)} is a symbolic link")
        elif not stat.S_ISREG(found.st_mode):
            faults.append(f"{shown(path)} is neither a file nor a folder")
        else:
            self.open(path, name, handle)

    def open(self, path: str, name: str, handle: int) -> None:
        """Read a file, unless it became something else."""
        faults = self.tree.faults
        try:
            descriptor = os.open(name, FLAGS, dir_fd=handle)
        except OSError as error:
            faults.append(f"{shown(path)} cannot be read: {error.strerror}")
            return
        with os.fdopen(descriptor, "rb") as stream:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                faults.append(f"{shown(path)} is not a regular file")
                return
            if before.st_nlink != 1:
                faults.append(f"{shown(path)} is a hard link: it changes when its other name is written to")
            self.tree.files[path] = self.read(path, stream, before.st_size)
            if mark(before) != mark(os.fstat(descriptor)):
                faults.append(f"{shown(path)} changed while it was read")

    def read(self, path: str, stream: BufferedReader, size: int) -> FileSeen:
        """A file's digest. A file that nobody expects, or not in this size, is not read: it may have no end."""
        if path in self.keep and size <= KEPT_BYTES_MAX:
            self.tree.kept[path] = data = stream.read(size)
            return FileSeen(size, hashlib.sha256(data).hexdigest())
        if self.sizes.get(path) != size:
            return FileSeen(size, None)
        return FileSeen(size, hashlib.file_digest(stream, "sha256").hexdigest())


def read_tree(folder: Path, keep: Collection[str], sizes: Mapping[str, int]) -> Tree:
    """Everything below `folder`, without following a link.

    Args:
        folder: whatever it holds.
        keep: paths whose bytes are kept, up to a limit.
        sizes: bytes by path; only files of just that size are read.

    Raises:
        OSError: `folder` itself cannot be read.
    """
    reader = TreeReader(keep, sizes)
    if folder.is_symlink():
        reader.tree.faults.append(f"{folder.name} is a symbolic link")
    for parent, folders, files, handle in os.fwalk(folder, follow_symlinks=False, onerror=_raise):
        prefix = "" if parent == str(folder) else f"{os.path.relpath(parent, folder)}/"
        for name in sorted([*folders, *files]):
            reader.look(prefix + name, name, handle)
    reader.tree.faults.extend(collisions([*reader.tree.files, *reader.tree.folders]))
    return reader.tree


def read_small(path: Path) -> bytes:
    """A file's bytes, up to what is kept of a file; nothing behind a link.

    Raises:
        OSError: it cannot be read, or is a link.
    """
    with os.fdopen(os.open(path, FLAGS), "rb") as stream:
        return stream.read(KEPT_BYTES_MAX)


def name_fault(path: str) -> str | None:
    """Why `path` cannot name a file of a bundle, on any system; None when it can."""
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    checks = (
        (not path or len(encoded) > NAME_BYTES_MAX, "is empty or too long"),
        ("\0" in path, "has a NUL in it"),
        (path.startswith("/"), "is an absolute path"),
        (":" in path or "\\" in path, "has a colon or a backslash in it"),
        (bool({"", ".", ".."} & set(path.split("/"))), "has an empty part, `.` or `..` in it"),
        (any(unicodedata.category(one)[0] == "C" for one in path), "has an invisible character in it"),
        (not unicodedata.is_normalized("NFC", path), "is not in Unicode's composed form"),
    )
    return next((fault for wrong, fault in checks if wrong), None)


def collisions(names: Iterable[str]) -> Iterator[str]:
    """Names that are one and the same where case does not count, one sentence a pair."""
    seen: dict[str, str] = {}
    for name in names:
        # Names that are no UTF-8 have their own fault.
        folded = unicodedata.normalize("NFC", name.casefold())
        if seen.setdefault(folded, name) != name:
            yield f"{shown(seen[folded])} and {shown(name)} differ in case alone"


def shown(path: str) -> str:
    """A name that is safe to print."""
    return path if path.isprintable() and name_fault(path) is None else ascii(path)


def mark(found: os.stat_result) -> tuple[int, int, int]:
    """What of a file changes when it is written to."""
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _raise(error: OSError) -> None:
    raise error
