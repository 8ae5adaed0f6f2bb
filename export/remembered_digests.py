"""Digests of the user's large files, remembered for as long as nobody touches them.

Every command begins with the identity of the source. For 14 GB of weights that is a quarter of a minute, each time; the
kernel knows in no time that nothing was written. What is imported is read and digested all the same.
"""

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from export.digest import digest_file, is_digest

MEMORY = "digests.json"
LARGE = 1 << 20  # bytes; what is smaller is read in less time than it takes to look it up
AT_MOST = 1000  # files, the latest; a source has some tens
# File systems tell times by the tick of a clock, some of 2 s: a second write within one tick would not be seen.
TICK_NS = 2_000_000_000


@contextlib.contextmanager
def remembered_digests(folder: Path) -> Iterator[Callable[[Path], str]]:
    """A `digest_file` that reads a large file only when it is not the one that was read last time.

    A file is the same while its device, inode, size, and times of the last write and of the last change of anything
    are: nobody but the kernel sets the last of them (st_ctime of stat(2)). What is new is written to `folder` at the
    end, if that can be.
    """
    known = recall(folder / MEMORY)
    learnt: dict[str, list[Any]] = {}

    def digest(path: Path) -> str:
        name, before = str(path.absolute()), signature(path)
        if before[2] < LARGE:
            return digest_file(path)
        if known.get(name, [None])[:-1] == before:
            return str(known[name][-1])
        found = digest_file(path)
        if before == signature(path) and time.time_ns() - max(before[3:]) > TICK_NS:
            learnt[name] = [*before, found]
        return found

    yield digest
    if learnt:
        kept = {**{name: row for name, row in known.items() if name not in learnt}, **learnt}
        remember(folder / MEMORY, dict(list(kept.items())[-AT_MOST:]))


def signature(path: Path) -> list[int]:
    """What changes with the file: device, inode, size in bytes, and the times of the last write and change, in ns."""
    status = path.stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def recall(path: Path) -> dict[str, list[Any]]:
    """The rows of a memory by path; none where it is missing or not what `remember` writes."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {name: row for name, row in rows.items() if is_row(row)} if isinstance(rows, dict) else {}


def is_row(row: Any) -> bool:
    """Whether it is five whole numbers and a SHA-256 in hex."""
    if not isinstance(row, list) or len(row) != 6 or not all(type(number) is int for number in row[:-1]):
        return False
    return isinstance(row[-1], str) and is_digest(row[-1])


def remember(path: Path, rows: dict[str, list[Any]]) -> None:
    """Write a memory so that a reader sees the old one or this one; where nothing can be written, there is none."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{MEMORY}-") as scratch:
            draft = Path(scratch) / MEMORY
            draft.write_text(json.dumps(rows, indent=1), encoding="utf-8")
            draft.replace(path)


def forget(folder: Path) -> None:
    """Remove what was remembered in `folder`."""
    (folder / MEMORY).unlink(missing_ok=True)
