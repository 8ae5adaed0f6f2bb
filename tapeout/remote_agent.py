"""What runs on the device: it keeps copied files by digest and runs measurements.

This file and the two it imports travel as text and are run by the device's Python. They have the standard library
alone, and start under older Pythons than Tapeout's, so that those can be named. The agent reads one JSON object a
line, with a file's bytes behind a `put`, and answers in JSON lines: `{"alive": true}` while it works,
`{"progress": [done, total]}`, then one answer. It ends with its standard input, and takes what it started with it.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tapeout.remote_cache import Cache
from tapeout.remote_channel import CHUNK, Channel, RefusedError

TAIL_BYTES = 4000
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNUSABLE = (*FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)


def measure(run: Path, job: dict[str, Any], timeout_s: float, environment: dict[str, str], channel: Channel) -> None:
    """Run one stage's child in `run`, pass its lines on, and say how it ended."""
    shutil.rmtree(str(run / "out"))
    (run / "out").mkdir()
    (run / "job.json").write_text(json.dumps(job), encoding="utf-8")
    paths = os.pathsep.join(filter(None, [str(run / "program"), os.environ.get("PYTHONPATH")]))
    with (run / "log.txt").open("w+b") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "tapeout.stage_process", "job.json"],
            cwd=str(run),
            env={**os.environ, **environment, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        try:
            late, answered = listen(child, time.monotonic() + timeout_s, channel)
            code = end(child, 0 if late else 10)
        finally:
            end(child, 0)
        if not answered:
            log.seek(max(0, log.tell() - TAIL_BYTES))
            channel.say({"ended": code, "late": late, "log": log.read().decode(errors="replace")})


def listen(child: subprocess.Popen[bytes], until: float, channel: Channel) -> tuple[bool, bool]:
    """(it took too long, it answered): pass the child's lines on until it has answered or closed its end."""
    assert child.stdout is not None  # noqa: S101 - for the type checker
    output = child.stdout.fileno()
    rest = b""
    while time.monotonic() < until:
        ready, _, _ = select.select([output, channel.source], [], [], 1.0)
        channel.beat()
        if channel.source in ready:
            channel.fill()  # nothing is asked meanwhile, so this is the end of the connection
        if output in ready:
            data = os.read(output, CHUNK)
            if not data:
                return False, False
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
                channel.say(message)
                if "progress" not in message:
                    return False, True
    return True, False


def end(child: subprocess.Popen[bytes], patience_s: float) -> int:
    """End the child and all that it started; its exit code."""
    if patience_s:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(patience_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    return child.wait()


def facts(names: list[str]) -> dict[str, Any]:
    """What the client decides by, before anything is copied."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return {"system": platform.system(), "machine": platform.machine(), "versions": found}


def serve(channel: Channel) -> None:
    """Answer requests until `bye`."""
    channel.say(facts(channel.read_line()["names"]))
    request = channel.read_line()
    cache = Cache(Path(request["folder"]).expanduser().absolute(), channel)
    cache.claim(request["session"])
    run: Path | None = None
    try:
        channel.say({"missing": cache.look(request["look"]), "root": str(cache.root)})
        while "bye" not in request:
            request = channel.read_line()
            if "put" in request:
                channel.say({"whole": cache.put(request["put"], request["size"], request["offset"])})
            elif "files" in request:
                run = cache.runs / str(os.getpid())
                run = cache.lay_out(request["files"], request["program"])
                channel.say({"run": str(run)})
            elif "job" in request and run is not None:
                measure(run, request["job"], request["timeout_s"], request["environment"], channel)
    finally:
        if run is not None and run.exists():
            shutil.rmtree(str(run))
    channel.say({"bye": True})


def main() -> int:
    """Serve, with standard output for answers alone."""
    answers = os.dup(1)
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(3))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    channel = Channel(0, answers)
    try:
        serve(channel)
    except RefusedError as refused:
        channel.say(refused.answer)
        return 4
    except OSError as error:
        if error.errno not in UNUSABLE:
            raise
        where = f"{error.filename or 'the folder for copied files'} there"
        step = "free space on the device" if error.errno in FULL else "make it writable"
        answer = RefusedError("NoSpace", f"cannot write {where}: {error.strerror}", f"{step}, or choose --on-folder")
        channel.say(answer.answer)
        return 4
    return 0
