"""Build under other circumstances, to find what depends on them: threads, hash seed, time zone, locale, home folder.

Stages are always given hash seed 0, so that a build is steady; a check that used it too could not see an unordered set.
"""

import os
from pathlib import Path

MARK = "TAPEOUT_DISTURBED"
HASH_SEED = "4242"
# POSIX: a zone 14 hours east of Greenwich, known without a database of zones.
ZONE = "XXX-14"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


def disturbed_environment(home: Path, code: Path) -> dict[str, str]:
    """The environment of a build under other circumstances.

    Args:
        home: an empty folder.
        code: where this program is imported from.
    """
    return {
        **os.environ,
        MARK: "1",
        "HOME": str(home),
        "LANG": "C",
        "LC_ALL": "C",
        "PYTHONHASHSEED": HASH_SEED,
        "PYTHONPATH": str(code),
        "TZ": ZONE,
    }


def stage_environment(exclusive: bool) -> dict[str, str]:
    """What a stage gets beside its own environment; a stage that measures time is left in peace."""
    if MARK not in os.environ or exclusive:
        return {}
    return {"PYTHONHASHSEED": HASH_SEED, "TAPEOUT_ONE_CPU": "1", **dict.fromkeys(THREADS, "1")}


def disturb_this_process() -> None:
    """Keep to one processor where a stage's environment asks for it."""
    if "TAPEOUT_ONE_CPU" in os.environ and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
