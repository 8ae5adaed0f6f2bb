"""Locks between processes that end with the process that holds them, however it ends."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path


def acquire(path: Path, mode: int, waiting: Callable[[], None] | None = None) -> int:
    """Lock a folder or a file (made if missing) in a mode of flock, and return the handle for `release`.

    `waiting` is called before waiting for another holder; what it raises ends the attempt.
    """
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is not None:
                waiting()
            fcntl.flock(handle, mode)
    except BaseException:
        os.close(handle)
        raise
    return handle


def release(handle: int) -> None:
    """Let go of a lock, also where a forked child has inherited the handle."""
    fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)
