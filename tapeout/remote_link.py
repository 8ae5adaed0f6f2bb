"""One SSH connection to a device: start the agent there, ask it, send it files, and notice when it is gone."""

import base64
import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tapeout.remote_failure import explain, lost
from tapeout.remote_place import Place
from targets.errors import DeviceMissing, IntegrityError, StageFailed, TapeoutError, TimedOut, error_named

Progress = Callable[[int], None]

CHUNK = 1 << 18
CONNECT_S = 60.0
SILENCE_S = 120.0  # the agent shows every 10 s that it is alive
ENDING_S = 10.0
MAX_LINE = 64 << 20  # what a device writes is held in memory until its line ends
AGENT = ("remote_channel", "remote_cache", "remote_agent")

# The version first, whatever the version is; then one line with everything that runs there.
MARK = b"tapeout-device "
BOOTSTRAP = (
    "import sys,base64;sys.path=[p for p in sys.path if p];"
    "sys.stdout.write('tapeout-device %d.%d.%d\\n' % sys.version_info[:3]);sys.stdout.flush();"
    "exec(base64.b64decode(open(0,'rb',0,closefd=False).readline()))"
)


class Link:
    """A connection, to be used in a `with`; it is gone at its end, and so is everything that it started there."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.python = ""
        self.buffer = b""
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the connection

    def __enter__(self) -> Self:
        """Connect and start the agent.

        Raises:
            DeviceMissing: no such device, no login, or no Python there.
            IntegrityError: its host key is not the one known for it.
        """
        command = self.place.command(self.place.python, "-u", "-c", BOOTSTRAP)
        try:
            self.ssh = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, start_new_session=True
            )
        except OSError as error:
            self.said.close()
            raise DeviceMissing(
                f"cannot run {command[0]}: {error.strerror}", "install the OpenSSH client, or set TAPEOUT_SSH"
            ) from error
        assert self.ssh.stdin is not None  # noqa: S101 - for the type checker
        assert self.ssh.stdout is not None  # noqa: S101
        self.to, self.answers = self.ssh.stdin.fileno(), self.ssh.stdout.fileno()
        os.set_blocking(self.to, False)
        try:
            self.python = self.greeting()
            self.send(base64.b64encode(agent_program().encode()) + b"\n")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.ssh.pid, signal.SIGKILL)
        self.ssh.wait()
        for stream in (self.ssh.stdin, self.ssh.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self.said.close()

    def greeting(self) -> str:
        """The version of the Python there; whatever its login shell prints before is passed over."""
        until = time.monotonic() + CONNECT_S
        while True:
            line = self.read_line(until)
            if line is None:
                raise self.failure()
            if line.startswith(MARK):
                return line[len(MARK) :].decode(errors="replace").strip()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            TapeoutError: what the agent refused; ConnectionLost when it is gone.
        """
        self.write(request)
        return checked(self.answer(), self.place)

    def write(self, request: dict[str, Any]) -> None:
        """Send a request whose answer is read later."""
        self.send(json.dumps(request).encode() + b"\n")

    def answer(self, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
        """The next line that is neither a sign of life nor progress."""
        while True:
            line = self.read_line(time.monotonic() + SILENCE_S)
            if line is None:
                raise self.failure()
            message = parsed(line, self.place)
            if "progress" in message and progress is not None:
                done, total = message["progress"]
                progress(done, total)
            elif not {"progress", "alive"} & message.keys():
                return message

    def put(self, digest: str, path: Path, offset: int, progress: Progress) -> None:
        """Send a file from `offset` on; once again from its beginning when what was there already was damaged.

        Raises:
            NoSpace: the device is full.
            IntegrityError: what arrives is not what was sent, or the file changed meanwhile.
        """
        size = path.stat().st_size
        for start in sorted({offset, 0}, reverse=True):
            self.write({"put": digest, "size": size, "offset": start})
            with path.open("rb") as stream:
                stream.seek(start)
                while data := stream.read(CHUNK):
                    self.send(data)
                    progress(len(data))
            answer = checked(self.answer(), self.place)
            if answer["whole"]:
                return
        raise IntegrityError(
            f"{path.name} did not arrive at {self.place.host} as it was sent",
            "verify the bundle, then the device's memory and storage",
        )

    def send(self, data: bytes) -> None:
        """Write everything, as fast as the device takes it."""
        rest = memoryview(data)
        while rest:
            if not select.select([], [self.to], [], SILENCE_S)[1]:
                raise self.silence()
            try:
                rest = rest[os.write(self.to, rest) :]
            except BrokenPipeError:
                # The agent may have said why before it went.
                checked(self.answer(), self.place)
                raise self.failure() from None

    def read_line(self, until: float) -> bytes | None:
        """The next line, or None at the end."""
        while b"\n" not in self.buffer:
            if not select.select([self.answers], [], [], max(0.0, until - time.monotonic()))[0]:
                raise self.silence()
            found = os.read(self.answers, CHUNK)
            if not found:
                return None
            self.buffer += found
            if len(self.buffer) > MAX_LINE:
                raise garbled(self.place)
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def silence(self) -> TapeoutError:
        """The device is there and does nothing."""
        if not self.python:
            return TimedOut(
                f"{self.place.host} did not start {self.place.python} within {CONNECT_S:.0f} s",
                f"see that this answers: {self.place.by_hand()} {self.place.python} -V",
            )
        return lost(self.place, f"no sign of life for {SILENCE_S:.0f} s")

    def failure(self) -> TapeoutError:
        """Why the connection ended."""
        try:
            code = self.ssh.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            code = -signal.SIGKILL
        self.said.seek(0)
        return explain(self.place, code, self.said.read().decode(errors="replace"), bool(self.python))


def checked(answer: dict[str, Any], place: Place) -> dict[str, Any]:
    """The answer, when it is no refusal.

    Raises:
        TapeoutError: what the agent refused, with the device named.
    """
    if "error" in answer:
        refusal = answer["error"]
        if not isinstance(refusal, dict) or not {"type", "what", "help"} <= refusal.keys():
            raise garbled(place)
        raise error_named(refusal["type"])(f"{place.host}: {refusal['what']}", str(refusal["help"]))
    return answer


def parsed(line: bytes, place: Place) -> dict[str, Any]:
    """The message in a line.

    Raises:
        StageFailed: the device has written something else.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict) or not _is_progress(message.get("progress", [0, 1])):
        raise garbled(place)
    return message


def _is_progress(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(each, int) for each in value)


def garbled(place: Place) -> StageFailed:
    """The device does not speak as the agent does."""
    return StageFailed(
        f"{place.host} answered with something that is no message",
        f"see what its login shell or its Python prints: {place.by_hand()} {place.python} -V",
    )


def agent_program() -> str:
    """Python text that defines the agent's modules, in the order of their imports, and runs it."""
    folder = Path(__file__).parent
    modules = [("tapeout", "")]
    modules += [(f"tapeout.{name}", (folder / f"{name}.py").read_text(encoding="utf-8")) for name in AGENT]
    return (
        "import sys, types\n"
        f"for name, text in {modules!r}:\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        "    exec(compile(text, name, 'exec', dont_inherit=True), sys.modules[name].__dict__)\n"
        f"sys.exit(sys.modules['tapeout.{AGENT[-1]}'].main())\n"
    )
