"""Let go of pages of mapped files that a library holds: they can be read again, and count as memory until then."""

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from pathlib import Path

# Linux 5.4: the kernel takes the pages back; clean ones are only dropped. Unlike MADV_DONTNEED it never loses a byte,
# whatever the pages turn out to be.
MADV_PAGEOUT = 21
INTERVAL_S = 0.2
MAPS = Path("/proc/self/maps")


@contextlib.contextmanager
def pages_dropped(*files: Path) -> Iterator[None]:
    """While this lasts, take back the pages of `files` a few times a second, and once more at the end.

    Where the system has no such call, nothing happens: memory is then what the library makes it.
    """
    ended = threading.Event()
    names = frozenset(str(file.resolve()) for file in files)

    def work() -> None:
        while not ended.wait(INTERVAL_S):
            drop_pages(names)

    if not MAPS.exists():
        yield
        return
    worker = threading.Thread(target=work, name="pages_dropped", daemon=True)
    worker.start()
    try:
        yield
    finally:
        ended.set()
        worker.join()
        drop_pages(names)


def drop_pages(names: frozenset[str]) -> None:
    """Take back the pages of every mapping of the files called `names`."""
    libc = ctypes.CDLL(None)
    for line in MAPS.read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] in names:
            start, end = (int(bound, 16) for bound in fields[0].split("-"))
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_PAGEOUT)
