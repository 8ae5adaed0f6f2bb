"""Keep a package under constant load for a long time, in a process of its own.

`python -m validate.soak BACKEND FOLDER SETTINGS PLAN` prints one JSON object a line: what surrounds the load, then each
request as it ends. It keeps nothing of what it printed, so that its memory is the runtime's.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from targets.errors import StageFailed, TimedOut
from targets.probe import probe_host
from targets.sensors import EnergyMeter, SensorReading, read_sensors
from validate.load_probe import load, ordinary_prompt
from validate.process_memory import resident_bytes
from validate.soak_figures import Request, Soak, SoakPlan, Surroundings, summarise
from validate.steadiness import look_around

Progress = Callable[[float, float], None]

LOADING_S = 600  # for the runtime to load, and for the last request to end
LOG_BYTES = 400


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is soaked: a package as a bundle has it."""

    backend: str
    folder: Path
    settings: Mapping[str, Any]
    digest: str


def soak(subject: Subject, plan: SoakPlan, progress: Progress, taken: Callable[[], str]) -> Soak:
    """Load a package in a child and keep it busy.

    Args:
        subject: the package.
        plan: how long and with what.
        progress: called with (seconds done, seconds in all) after each request.
        taken: gives the time of the end.

    Raises:
        StageFailed: the process dies; the message has the end of what it said.
        TimedOut: a request does not end.
    """
    before = read_sensors()
    command = [
        sys.executable,
        "-m",
        "validate.soak",
        subject.backend,
        str(subject.folder),
        json.dumps(dict(subject.settings)),
        json.dumps(dataclasses.asdict(plan)),
    ]
    requests: list[Request] = []
    around: dict[str, Any] = {}
    with run_child(command, 60 * plan.minutes + plan.idle_s + LOADING_S, subject) as lines:
        for line in lines:
            message = json.loads(line)
            if "end_s" not in message:
                around = message
                continue
            requests.append(read_request(message))
            progress(min(requests[-1].end_s, 60 * plan.minutes), 60 * plan.minutes)
    if not requests:
        raise StageFailed(f"{subject.folder.name} answered no request", "look at the runtime's messages")
    conditions = look_around(probe_host().governor, before)
    return summarise(plan, requests, Surroundings(taken(), subject.digest, **around, conditions=conditions))


@contextlib.contextmanager
def run_child(command: list[str], timeout_s: float, subject: Subject) -> Iterator[IO[str]]:
    """The lines a child prints; it is gone afterwards, whatever happens."""
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        late = threading.Event()

        def stop() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(timeout_s, stop)
        timer.start()
        try:
            assert child.stdout is not None  # noqa: S101 - for the type checker
            yield child.stdout
            child.wait()
        finally:
            timer.cancel()
            child.kill()
            child.wait()
            child.stdout.close() if child.stdout else None
        if late.is_set():
            raise TimedOut(f"soaking {subject.folder.name} hung", "look at the device's load and at its system log")
        if child.returncode:
            log.seek(max(0, log.tell() - LOG_BYTES))
            said = log.read().decode(errors="replace").strip()
            raise StageFailed(
                f"soaking {subject.folder.name} in {subject.backend} ended with {child.returncode}: {said}",
                "look at the device's memory and at its system log",
            )


def read_request(message: Mapping[str, Any]) -> Request:
    """A request from the child's line."""
    sensors = SensorReading(**message["sensors"])
    return Request(**{**message, "sensors": sensors, "intervals_ms": tuple(message["intervals_ms"])})


def keep_busy(backend: str, package: Path, settings: Mapping[str, Any], plan: SoakPlan) -> Iterator[dict[str, Any]]:
    """What surrounds the load, then each request as it ends; one that began in time is finished."""
    pipeline = load(backend, package, settings)
    prompt = ordinary_prompt(plan.prompt_tokens)
    pipeline.generate(prompt, 2, stop=False)  # what is set up at the first request is no part of a steady state
    meter = EnergyMeter()
    idle = None
    if meter.counters:
        time.sleep(plan.idle_s)
        drawn = meter.look()
        idle = drawn / (time.monotonic() - meter.since) if drawn is not None else None
    yield {"energy_sensor": meter.sensor, "idle_watts": idle}
    meter = EnergyMeter(meter.counters)
    start = time.monotonic()
    while time.monotonic() - start < 60 * plan.minutes:
        answer = pipeline.generate(prompt, plan.new_tokens + 1, stop=False)
        yield {
            "end_s": time.monotonic() - start,
            "ttft_ms": 1e3 * answer.ttft_s,
            "intervals_ms": [round(1e3 * interval, 4) for interval in answer.intervals_s],
            "memory_bytes": resident_bytes(),
            "sensors": dataclasses.asdict(read_sensors()),
            "joules": meter.look(),
        }


def main(arguments: list[str]) -> None:
    """Print what `keep_busy` sees."""
    backend, package, settings, plan = arguments
    for message in keep_busy(backend, Path(package), json.loads(settings), SoakPlan(**json.loads(plan))):
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
    # Ending here skips the runtimes' static destructors, which have been seen to hang after the work is done.
    sys.stdout.flush()
    os._exit(0)
