"""Run a vendor's compiler in a child process, within limits, and turn whatever happens to it into a typed error."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from targets.errors import StageFailed, TimedOut

POLL_S = 0.1
TAIL_BYTES = 4000
TAIL_LINES = 12


def run_vendor(
    command: Sequence[str],
    *,
    what: str,
    timeout_s: float,
    memory_bytes: int,
    log: Path,
    environment: Mapping[str, str],
) -> None:
    """Run `command` to its end with everything it says in `log`; the log stays, whatever happens.

    The child shares this process's group, so that ending a stage ends its compiler too; what the child itself starts
    is found by asking for its descendants, and is ended with it. The memory limit holds for the resident sizes of all
    of them together, looked at ten times a second: a limit on address space would refuse compilers that reserve more
    than they use (Wine, for one).

    Args:
        command: program and arguments; never a shell line.
        what: which compiler at which job, as it is to stand in an error ("HTP compiler: prefill graph").
        timeout_s: seconds of wall time it may take.
        memory_bytes: resident bytes it may have.
        log: file for standard output and standard error together; overwritten.
        environment: variables to add to this process's own.

    Raises:
        TimedOut: it did not end in time.
        StageFailed: it cannot be started, took too much memory, died of a signal, or ended with another code than 0.
            Output that is missing although it ended with 0 is for the caller to find: `require_output`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        try:
            child = psutil.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
            )
        except OSError as error:
            raise StageFailed(f"{what}: cannot start {command[0]}: {error.strerror}", "check that it exists") from error
        seen: set[psutil.Process] = {child}
        try:
            reason = watch(child, seen, timeout_s, memory_bytes)
        finally:
            end_all(child, seen)
    if reason == "time":
        raise TimedOut(f"{what} did not end within {timeout_s:g} s{said(log)}", look_at(log))
    if reason == "memory":
        raise StageFailed(f"{what} took more than {memory_bytes / 1e9:.1f} GB of memory{said(log)}", look_at(log))
    code = child.returncode
    if code is not None and code < 0:
        raise StageFailed(f"{what} died of {signal_name(-code)}{said(log)}", look_at(log))
    if code != 0:
        raise StageFailed(f"{what} ended with code {code}{said(log)}", look_at(log))


def require_output(paths: Sequence[Path], what: str, log: Path) -> None:
    """Check that a compiler which ended well wrote what it was asked for.

    Raises:
        StageFailed: a file is missing or empty.
    """
    missing = [path.name for path in paths if not path.is_file() or not path.stat().st_size]
    if missing:
        raise StageFailed(f"{what} ended without writing {', '.join(missing)}{said(log)}", look_at(log))


def watch(child: psutil.Popen, seen: set[psutil.Process], timeout_s: float, memory_bytes: int) -> str:
    """Wait for the end of `child`, and gather all its descendants in `seen`.

    Returns:
        Why the waiting ended: `end`, `time` or `memory`.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(psutil.TimeoutExpired):
            child.wait(timeout=POLL_S)
            return "end"
        with contextlib.suppress(psutil.NoSuchProcess):
            seen.update(child.children(recursive=True))
        if resident_bytes(seen) > memory_bytes:
            return "memory"
        if time.monotonic() > deadline:
            return "time"


def resident_bytes(processes: set[psutil.Process]) -> int:
    """Resident bytes of those that are still there; pages they share count for each."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def end_all(child: psutil.Popen, seen: set[psutil.Process]) -> None:
    """End the child and everything it started, and wait for the child."""
    for process in seen:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    child.wait()


def said(log: Path) -> str:
    """The last lines of a log, as the end of an error's sentence."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - TAIL_BYTES))
        lines = stream.read().decode(errors="replace").splitlines()
    lines = [line.rstrip() for line in lines if line.strip()][-TAIL_LINES:]
    return "; it said:\n  " + "\n  ".join(lines) if lines else "; it said nothing"


def look_at(log: Path) -> str:
    """Where to read on."""
    return f"its whole log is {log}"


def signal_name(number: int) -> str:
    """SIGSEGV for 11, and the number where the system has no name for it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
