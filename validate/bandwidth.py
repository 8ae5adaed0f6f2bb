"""How fast this machine reads memory: the roof above every decoder that reads its weights once a token.

Every thread takes the maximum of a buffer of its own. That is one vector load and one comparison for each 8 numbers,
several times faster from a cache than from memory, so memory is what is timed; a reduction gives nothing to write back.
As in STREAM (McCalpin, 1995) the buffers are at least four times the last-level cache and the best round counts: a roof
is what the machine can do, and whatever runs beside it only takes away.
"""

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
CACHE_FACTOR = 4
UNKNOWN_CACHE = 64 << 20  # bytes; more than any device of our targets has
LEAST_BYTES = 256 << 20
MOST_BYTES = 1 << 30
BUDGET_S = 1.0
LEAST_ROUNDS = 3
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Bandwidth:
    """Measured read bandwidth of main memory.

    Attributes:
        bytes_per_second: of the best round, all threads together.
        median_bytes_per_second: of all rounds; far below the best one, something ran beside the measurement.
        threads: that read at the same time.
        buffer_bytes: all that is read in a round.
        rounds: timed.
    """

    bytes_per_second: float
    median_bytes_per_second: float
    threads: int
    buffer_bytes: int
    rounds: int


def measure_bandwidth(threads: int, budget_s: float = BUDGET_S) -> Bandwidth:
    """Read memory with as many threads as the runtime computes with, for about `budget_s` seconds."""
    size = buffer_bytes(last_level_cache()) // threads // 8
    buffers = [np.ones(size, np.int64) for _ in range(threads)]  # written, so that every page is memory of its own
    rates: list[float] = []
    start = time.monotonic()
    while len(rates) < LEAST_ROUNDS or time.monotonic() - start < budget_s:
        rates.append(threads * size * 8 / read_all(buffers))
    return Bandwidth(max(rates), float(np.median(rates)), threads, threads * size * 8, len(rates))


def read_all(buffers: list[NDArray[np.int64]]) -> float:
    """Seconds from the first read to the last, every buffer [n] read by a thread of its own.

    numpy lets go of the interpreter while it reduces.
    """
    gate = threading.Barrier(len(buffers))
    starts, ends = [0.0] * len(buffers), [0.0] * len(buffers)

    def read(place: int) -> None:
        gate.wait()
        starts[place] = time.perf_counter()
        buffers[place].max()
        ends[place] = time.perf_counter()

    readers = [threading.Thread(target=read, args=(place,)) for place in range(len(buffers))]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    return max(ends) - min(starts)


def buffer_bytes(cache: int | None) -> int:
    """Bytes to read in a round, so that hardly any of them is still in a cache of so many bytes."""
    return min(max(CACHE_FACTOR * (UNKNOWN_CACHE if cache is None else cache), LEAST_BYTES), MOST_BYTES)


def last_level_cache(caches: Path = CACHES) -> int | None:
    """Bytes of the largest cache of the first processor, or None where the system does not say."""
    sizes = []
    for path in caches.glob("index*/size"):
        text = path.read_text().strip()
        if text[:-1].isdecimal() and text[-1:] in UNITS:
            sizes.append(int(text[:-1]) * UNITS[text[-1]])
    return max(sizes, default=None)


def usable_threads() -> int:
    """Hardware threads that this process may use: what the CPU runtimes take when nobody tells them otherwise."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
