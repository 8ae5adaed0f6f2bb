"""Run one stage in a fresh child process, watch it, and turn whatever happens to it into a value or a typed error."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from targets.errors import NoSpace, StageFailed, TapeoutError, TimedOut, WorkerLost, error_named

TAIL_BYTES = 4000

# The vendors' telemetry is off for every stage.
ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "NNCF_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONHASHSEED": "0",
}


@dataclass(frozen=True)
class Outcome:
    """What a child left.

    Attributes:
        value: the stage's value as JSON.
        seconds: wall time.
        peak_bytes: largest resident size of the child, or of what it started.
    """

    value: dict[str, Any]
    seconds: float
    peak_bytes: int


class Children:
    """The running children, so that an interrupted build can end them all."""

    def __init__(self) -> None:
        self.running: set[subprocess.Popen[str]] = set()
        self.lock = threading.Lock()
        self.stopping = False

    @contextlib.contextmanager
    def started(
        self, command: list[str], log: IO[str], environment: Mapping[str, str] | None = None, stdin: int | None = None
    ) -> Iterator[subprocess.Popen[str]]:
        """A child in a process group of its own, which is gone at the end."""
        with self.lock:
            if self.stopping:
                raise KeyboardInterrupt
            child = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **ENVIRONMENT, **(environment or {})},
                start_new_session=True,
            )
            self.running.add(child)
        try:
            yield child
        finally:
            self.end(child)

    @contextlib.contextmanager
    def ahead(self, modules: Sequence[str], environment: Mapping[str, str]) -> Iterator["Ahead"]:
        """A child that imports `modules` and waits for its job; it is gone at the end, with or without one."""
        command = [sys.executable, "-m", "tapeout.stage_process", "--ahead", *modules]
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8") as log,
            self.started(command, log, environment, subprocess.PIPE) as child,
        ):
            yield Ahead(child, log)

    def end(self, child: subprocess.Popen[str]) -> None:
        """Kill what is left of a child and its group, once: afterwards its number may be somebody else's."""
        with self.lock:
            if child not in self.running:
                return
            self.running.discard(child)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def stop(self) -> None:
        """End every child and start no more."""
        with self.lock:
            self.stopping = True
            for child in self.running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGTERM)


@dataclass(frozen=True)
class Ahead:
    """A child that was started before its job was known.

    Attributes:
        child: waits for the path of its job.
        log: what it says.
    """

    child: subprocess.Popen[str]
    log: IO[str]

    def give(self, job_path: Path) -> None:
        """Tell it its job; one that has died meanwhile is found dead when its answer is awaited."""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(str(job_path)), file=self.child.stdin, flush=True)


def run_child(
    job: Mapping[str, Any],
    scratch: Path,
    timeout_s: int,
    children: Children,
    progress: Callable[[int, int], None],
    ahead: Ahead | None = None,
) -> Outcome:
    """Run `job` (see `tapeout.stage_process`) with files below `scratch`, in the child that was started `ahead` if any.

    Raises:
        TapeoutError: what the stage raised, as it raised it.
        TimedOut: it took longer than `timeout_s`.
        WorkerLost: it died of a signal.
        StageFailed: it ended without an answer.
    """
    job_path = scratch / "job.json"
    job_path.write_text(json.dumps(job), encoding="utf-8")
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        if ahead is None:
            command = [sys.executable, "-m", "tapeout.stage_process", str(job_path)]
            log: IO[str] = stack.enter_context((scratch / "log.txt").open("w+", encoding="utf-8"))
            child = stack.enter_context(children.started(command, log, job.get("environment")))
        else:
            child, log = ahead.child, ahead.log
            stack.callback(children.end, child)
            ahead.give(job_path)
        timer = threading.Timer(timeout_s, child.kill)
        timer.start()
        try:
            answer = listen(child, progress)
            code = child.wait()
        finally:
            timer.cancel()
        said = tail(log)
    seconds = time.monotonic() - start
    if children.stopping:
        raise KeyboardInterrupt
    if "value" in answer:
        return Outcome(answer["value"], seconds, answer["peak_bytes"])
    raise failure(str(job["stage"]), answer, code, said, seconds >= timeout_s)


def listen(child: subprocess.Popen[str], progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Pass progress on until the child has answered or closed its end.

    An answer is the end even while the pipe is open: something the child started may hold it. A line that is no
    message came from a library that found the pipe; it ends nothing.
    """
    for line in child.stdout or ():
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(message, dict):
            continue
        if "progress" not in message:
            return message
        progress(*message["progress"])
    return {}


def failure(stage: str, answer: Mapping[str, Any], code: int, log: str, late: bool) -> TapeoutError:
    """The error for a child that gave no value."""
    if "error" in answer:
        return error_named(answer["error"]["type"])(answer["error"]["what"], answer["error"]["help"])
    if late:
        return TimedOut(
            f"stage {stage} did not end within its time limit", "look at the machine's load, then build again"
        )
    if "No space left on device" in log:
        return NoSpace(
            f"stage {stage} ran out of disk space", "free some space, or set TAPEOUT_STORE to another folder"
        )
    if "MemoryError" in log or "bad_alloc" in log or code == -signal.SIGKILL:
        return WorkerLost(
            f"stage {stage} ran out of memory or was killed", "close other programs, or use a smaller model"
        )
    if code < 0:
        name = signal.Signals(-code).name
        return WorkerLost(
            f"stage {stage} died of {name}: {last_line(log)}", "build again with --debug and report this model"
        )
    return StageFailed(f"stage {stage} failed: {last_line(log)}", "build again with --debug to see the whole log")


def tail(log: IO[str]) -> str:
    """The end of a log that a child writes, whose place in it is left alone."""
    size = os.fstat(log.fileno()).st_size
    return os.pread(log.fileno(), TAIL_BYTES, max(0, size - TAIL_BYTES)).decode(errors="replace")


def last_line(log: str) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
