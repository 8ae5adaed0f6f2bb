"""Load a package in processes of their own: how long, how much memory, and what its first requests take.

`python -m validate.load_probe BACKEND FOLDER SETTINGS ASKED` prints one JSON line; SETTINGS and ASKED are JSON.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from targets.errors import StageFailed, TimedOut
from validate.measurement import Loading
from validate.process_memory import peak_bytes
from validate.runtime import Generation, Pipeline, find_runtime
from validate.steadiness import Process, Restarts, spread_of

TIMEOUT_S = 300
ANSWER_TOKENS = 8
FIRST_TOKEN_ID = 100  # prompts are made of ordinary ids; what they say does not matter here


@dataclass(frozen=True)
class Asked:
    """What one process is asked for after loading.

    Attributes:
        prompt_tokens: of each timed request.
        new_tokens: after the first.
        requests: timed after the first one.
        longest_prompt: of one more request, for the memory it takes; 0 for none.
        started: the parent's monotonic clock when it started the process.
    """

    prompt_tokens: int
    new_tokens: int
    requests: int
    longest_prompt: int = 0
    started: float = 0.0


@dataclass(frozen=True)
class Seen:
    """What one process saw, times in seconds."""

    load_s: float
    start_to_first_token_s: float
    first_ttft_s: float
    ttft_s: float
    tpot_s: float
    peak_memory_bytes: int


def measure_restarts(
    backend: str, package: Path, settings: Mapping[str, Any], asked: Asked, processes: int
) -> tuple[Loading, Restarts]:
    """Load and answer in fresh processes: the first with a cold page cache, the last with the longest prompt too.

    Raises:
        StageFailed: a process dies; the message has the end of what it said.
        TimedOut: one does not end within `TIMEOUT_S`.
    """
    evicted = evict(package)
    short = dataclasses.replace(asked, longest_prompt=0)
    count = max(2, processes)
    seen = [run_probe(backend, package, settings, asked if number == count - 1 else short) for number in range(count)]
    found = tuple(
        Process(
            cold_cache=evicted and number == 0,
            load_s=each.load_s,
            start_to_first_token_s=each.start_to_first_token_s,
            first_ttft_ms=1e3 * each.first_ttft_s,
            ttft_ms=1e3 * each.ttft_s,
            tpot_ms=1e3 * each.tpot_s,
        )
        for number, each in enumerate(seen)
    )
    loading = Loading(
        cold_s=seen[0].load_s,
        cold_is_cold=evicted,
        warm_s=statistics.median(each.load_s for each in seen[1:]),
        peak_memory_bytes=seen[-1].peak_memory_bytes,
        prompt_tokens=asked.longest_prompt,
    )
    restarts = Restarts(
        prompt_tokens=asked.prompt_tokens,
        new_tokens=asked.new_tokens,
        requests=asked.requests,
        processes=found,
        ttft_spread=spread_of([each.ttft_ms for each in found]),
        tpot_spread=spread_of([each.tpot_ms for each in found]),
    )
    return loading, restarts


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


def run_probe(backend: str, package: Path, settings: Mapping[str, Any], asked: Asked) -> Seen:
    """Run this module in a child and read its answer."""
    asked = dataclasses.replace(asked, started=time.monotonic())
    command = [
        sys.executable,
        "-m",
        "validate.load_probe",
        backend,
        str(package),
        json.dumps(dict(settings)),
        json.dumps(dataclasses.asdict(asked)),
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
    return Seen(**json.loads(child.stdout.strip().splitlines()[-1]))


def load(backend: str, package: Path, settings: Mapping[str, Any]) -> Pipeline:
    """The package's pipeline.

    Raises:
        StageFailed: its back end has none, or none here.
    """
    runtime = find_runtime(backend)
    if runtime is None:
        raise StageFailed(f"back end {backend} has no runtime to load with", "measure a package that has one")
    pipeline = runtime.pipeline(package, settings)
    if pipeline is None:
        raise StageFailed(f"back end {backend} has no pipeline on this machine", "measure it on the device")
    return pipeline


def probe(backend: str, package: Path, settings: Mapping[str, Any], asked: Asked) -> Seen:
    """Load, answer, and look at the clock and the memory of this process."""
    begun = time.monotonic()
    pipeline = load(backend, package, settings)
    loaded = time.monotonic()
    prompt = ordinary_prompt(asked.prompt_tokens)
    first = pipeline.generate(prompt, asked.new_tokens + 1, stop=False)
    warm: list[Generation] = [
        pipeline.generate(prompt, asked.new_tokens + 1, stop=False) for _ in range(asked.requests)
    ]
    if asked.longest_prompt:
        pipeline.generate(ordinary_prompt(asked.longest_prompt), ANSWER_TOKENS, stop=False)
    return Seen(
        load_s=loaded - begun,
        start_to_first_token_s=loaded - asked.started + first.ttft_s,
        first_ttft_s=first.ttft_s,
        ttft_s=statistics.median(each.ttft_s for each in warm),
        tpot_s=statistics.median(statistics.median(each.intervals_s) for each in warm),
        peak_memory_bytes=peak_bytes(),
    )


def ordinary_prompt(tokens: int) -> list[int]:
    """So many ids that every vocabulary has."""
    return [FIRST_TOKEN_ID + index % 100 for index in range(tokens)]


def main(arguments: list[str]) -> None:
    """Print the answer of `probe` as JSON."""
    backend, package, settings, asked = arguments
    seen = probe(backend, Path(package), json.loads(settings), Asked(**json.loads(asked)))
    sys.stdout.write(json.dumps(dataclasses.asdict(seen)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
    # Ending here skips the runtimes' static destructors, which have been seen to hang after the work is done.
    sys.stdout.flush()
    os._exit(0)
