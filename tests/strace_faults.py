"""Let an operation meet a fault at its N-th call into the kernel: strace attaches to a forked child that waits."""

import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from targets.errors import TapeoutError

# Whatever reaches a file or a folder. The wait for strace uses none of them.
CALLS = (
    "open,openat,creat,read,pread64,readv,write,pwrite64,writev,close,fsync,fdatasync,ftruncate,rename,renameat,renameat2"
    ",mkdir,mkdirat,rmdir,unlink,unlinkat,chmod,fchmod,fchmodat,utimensat,flock,ioctl,stat,lstat,fstat,newfstatat,statx"
    ",getdents64,readlink,readlinkat,lseek,link,linkat,symlink,symlinkat,copy_file_range,sendfile,access,faccessat2"
)
WRITING = re.compile(r"write|fsync|rename|mkdir|ftruncate|copy_file_range|sendfile|open.*O_CREAT|utimensat")
KILL, EIO, ENOSPC = "signal=KILL", "error=EIO", "error=ENOSPC"
HUNG_S = 30
UNTYPED = 100
HUNG = 101


@dataclass(frozen=True)
class Fault:
    """What goes wrong at which call.

    Attributes:
        call: the system call.
        number: its how-manieth use, from 1.
        kind: KILL, EIO or ENOSPC.
        shown: the call as strace prints it.
    """

    call: str
    number: int
    kind: str
    shown: str


def usable() -> str:
    """Why strace cannot be used here; empty if it can."""
    try:
        child = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "strace is not installed"
    return child.stderr.strip() if child.returncode else ""


def require_strace() -> None:
    """Skip where strace does not work, and fail there in CI."""
    why = usable()
    if why:
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)


def list_faults(work: Callable[[], object], log: Path) -> list[Fault]:
    """Every fault that `work` can meet, from one run of it without any."""
    code = traced(work, ["-e", f"trace={CALLS}", "-o", str(log)])
    assert code == 0, f"the operation fails without a fault: {code}"
    seen: Counter[str] = Counter()
    faults = []
    for line in log.read_text(errors="replace").splitlines():
        call, bracket, _ = line.partition("(")
        if not bracket:
            continue
        seen[call] += 1
        kinds = [KILL, EIO, *([ENOSPC] if WRITING.search(line.partition(" = ")[0]) else [])]
        faults += [Fault(call, seen[call], kind, line) for kind in kinds]
    return faults


def meet(work: Callable[[], object], fault: Fault) -> int:
    """Run `work` with the fault; 0, the exit code of a typed error, UNTYPED, HUNG, or minus the signal."""
    inject = f"inject={fault.call}:{fault.kind}:when={fault.number}"
    return traced(work, ["-e", f"trace={fault.call}", "-e", inject, "-o", os.devnull])


def traced(work: Callable[[], object], options: list[str]) -> int:
    """Run `work` in a forked child under strace and say how it ended."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    child = os.fork()
    if child == 0:
        _play(work)
    strace = subprocess.Popen(["strace", "-p", str(child), *options], stderr=subprocess.PIPE, text=True)
    assert strace.stderr is not None
    attached = strace.stderr.readline()
    if "attached" not in attached:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail(f"strace cannot attach: {attached}")
    os.kill(child, signal.SIGUSR1)
    code = _ended(child)
    strace.communicate(timeout=HUNG_S)
    return code


def _play(work: Callable[[], object]) -> None:
    """The child's side: wait for strace, work, and end with what became of it."""
    code = UNTYPED
    try:
        signal.sigwait({signal.SIGUSR1})
        work()
        code = 0
    except TapeoutError as error:
        code = error.exit_code
    except OSError:
        # What the store did not turn into an error of its own.
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(code)


def _ended(child: int) -> int:
    deadline = time.monotonic() + HUNG_S
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return HUNG
