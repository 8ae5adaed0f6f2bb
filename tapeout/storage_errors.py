"""Turn a full, failing or unwritable file system into one typed error that names the folder and the way out."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from targets.errors import NoSpace

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
FAILING = frozenset({errno.EIO})
UNUSABLE = FULL | FAILING | {errno.EROFS, errno.EACCES, errno.EPERM}
MOVE_STORE = "move the store with --store FOLDER or TAPEOUT_STORE"


@contextmanager
def storage_errors(folder: Path, remedy: str = MOVE_STORE, codes: frozenset[int] = UNUSABLE) -> Iterator[None]:
    """Work on files below `folder`.

    Raises:
        NoSpace: an OSError whose errno is in `codes`; its help line names `folder` and `remedy`.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in codes:
            raise
        first = "free space in" if error.errno in FULL else "make writable"
        first = "look at the disk (dmesg) below" if error.errno in FAILING else first
        raise NoSpace(f"cannot use {folder}: {error.strerror}", f"{first} {folder}, or {remedy}") from error
