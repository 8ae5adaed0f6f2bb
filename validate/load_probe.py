"""Load a package in a process of its own: how long, how much memory.

`python -m validate.load_probe BACKEND FOLDER SETTINGS PROMPT_TOKENS` prints one JSON line.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from targets.errors import StageFailed, TimedOut
from validate.measurement import Loading
from validate.runtime import find_runtime

TIMEOUT_S = 300
ANSWER_TOKENS = 8
FIRST_TOKEN_ID = 100  # prompts are made of ordinary ids; what they say does not matter here


def measure_loading(backend: str, package: Path, settings: Mapping[str, Any], prompt_tokens: int) -> Loading:
    """One cold load and one warm one, each in a fresh process; the warm one also answers a prompt.

    Raises:
        StageFailed: the process dies; the message has the end of what it said.
        TimedOut: it does not end within `TIMEOUT_S`.
    """
    evicted = evict(package)
    cold = run_probe(backend, package, settings, 0)
    warm = run_probe(backend, package, settings, prompt_tokens)
    return Loading(
        cold_s=cold["load_s"],
        cold_is_cold=evicted,
        warm_s=warm["load_s"],
        peak_memory_bytes=int(warm["peak_memory_bytes"]),
        prompt_tokens=prompt_tokens,
    )


def evict(package: Path) -> bool:
    """Ask the kernel to forget the package's files; False where it cannot be asked."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in package.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())  # only clean pages can be dropped
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def run_probe(backend: str, package: Path, settings: Mapping[str, Any], prompt_tokens: int) -> dict[str, float]:
    """Run this module in a child and read its answer."""
    command = [
        sys.executable,
        "-m",
        "validate.load_probe",
        backend,
        str(package),
        json.dumps(dict(settings)),
        str(prompt_tokens),
    ]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise TimedOut(f"loading {package.name} took more than {TIMEOUT_S} s", "look at the device's load") from error
    if child.returncode:
        raise StageFailed(
            f"loading {package.name} in {backend} ended with {child.returncode}: {child.stderr.strip()[-400:]}",
            "build the package again, or report this model",
        )
    answer: dict[str, float] = json.loads(child.stdout.strip().splitlines()[-1])
    return answer


def probe(backend: str, package: Path, settings: Mapping[str, Any], prompt_tokens: int) -> dict[str, float]:
    """Load, answer once if a prompt is wanted, and look at the clock and the memory of this process."""
    runtime = find_runtime(backend)
    if runtime is None:
        raise StageFailed(f"back end {backend} has no runtime to load with", "measure a package that has one")
    start = time.perf_counter()
    pipeline = runtime.pipeline(package, settings)
    if pipeline is None:
        raise StageFailed(f"back end {backend} has no pipeline on this machine", "measure it on the device")
    loaded = time.perf_counter() - start
    if prompt_tokens:
        pipeline.generate([FIRST_TOKEN_ID + index % 100 for index in range(prompt_tokens)], ANSWER_TOKENS, stop=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"load_s": loaded, "peak_memory_bytes": peak}


def main(arguments: list[str]) -> None:
    """Print the answer of `probe` as JSON."""
    backend, package, settings, prompt_tokens = arguments
    sys.stdout.write(json.dumps(probe(backend, Path(package), json.loads(settings), int(prompt_tokens))) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
    # Ending here skips the runtimes' static destructors, which have been seen to hang after the work is done.
    sys.stdout.flush()
    os._exit(0)
