"""Memory of this process, as the kernel counts it."""

import os
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
STATM = Path("/proc/self/statm")
KILO = 1024
MAXRSS_UNIT = 1 if sys.platform == "darwin" else KILO  # bytes, of getrusage(2)'s ru_maxrss


def peak_bytes() -> int:
    """Largest resident size of this process since its program was started.

    Linux's `ru_maxrss` survives execve: a small program that a large one started reports the large one's. `VmHWM`
    belongs to the program (proc(5)).
    """
    if STATUS.exists():
        rows = dict(line.split(":", 1) for line in STATUS.read_text(encoding="ascii").splitlines())
        return int(rows["VmHWM"].split()[0]) * KILO
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT


def peak_with_children_bytes() -> int:
    """The larger of this process's peak and that of the largest process it started and waited for."""
    import resource

    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * MAXRSS_UNIT
    return max(peak_bytes(), children)


def resident_bytes() -> int:
    """Resident size of this process, now; its peak where the system only tells that."""
    if STATM.exists():
        return int(STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return peak_bytes()
