"""A headless Chromium driven over its own pipe: what a page logs, fetches and looks like, without another library.

`python -m tests.chromium PAGE PICTURE [light|dark]` takes the picture that README.md shows.
"""

import base64
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # tests may run as root; the page is our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
)
PATIENCE = 60.0  # seconds


def find_chromium() -> str:
    """The browser; without one, a test is skipped here and fails in CI."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        message = "no Chromium; on Debian and Ubuntu: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


@dataclass
class Seen:
    """What a page did: console and log entries, exceptions, and every address it asked for beside its own."""

    logged: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)

    def clear(self) -> None:
        """Forget what was seen."""
        self.logged.clear()
        self.fetched.clear()


class Browser:
    """One process and one page. The pipe carries JSON messages that end with a zero byte."""

    def __init__(self, profile: Path) -> None:
        self.seen = Seen()
        self._number = 0
        self._buffer = b""
        self._loaded = False
        (self._read, out), (into, self._write) = os.pipe(), os.pipe()
        os.set_blocking(self._read, False)
        # The browser reads from 3 and writes to 4: moved there in the child, from numbers that are neither.
        theirs_read, theirs_write = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (into, out))
        os.close(into)
        os.close(out)
        move = f"os.dup2({theirs_read}, 3); os.dup2({theirs_write}, 4)"
        mover = f"import os, sys; {move}; os.execv(sys.argv[1], sys.argv[1:])"
        command = [sys.executable, "-c", mover, find_chromium(), *FLAGS, f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            command,
            pass_fds=(theirs_read, theirs_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_read)
        os.close(theirs_write)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        os.close(self._write)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._read)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol and its answer; events on the way are noted."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        for answer in self._messages():
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
        raise AssertionError

    def open(self, page: Path, width: int, height: int, theme: str = "light") -> None:
        """Load a page in a window of that size."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self._loaded = False
        self.call("Page.navigate", url=page.resolve().as_uri())
        if not self._loaded:
            next(message for message in self._messages() if message.get("method") == "Page.loadEventFired")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def screenshot(self, *, whole: bool = False) -> bytes:
        """PNG of the window, or of the whole page."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(taken["data"])

    def pdf(self) -> bytes:
        """The page as it prints."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"])

    def _messages(self) -> Iterator[dict[str, Any]]:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            while b"\0" in self._buffer:
                line, _, self._buffer = self._buffer.partition(b"\0")
                message = json.loads(line)
                self._note(message)
                yield message
            try:
                chunk = os.read(self._read, 1 << 20)
            except BlockingIOError:
                time.sleep(0.005)
                continue
            assert chunk, f"the browser ended with {self._process.poll()}"
            self._buffer += chunk
        pytest.fail(f"the browser did not answer within {PATIENCE:g} s")

    def _note(self, message: dict[str, Any]) -> None:
        method, found = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method in {"Runtime.exceptionThrown", "Runtime.consoleAPICalled"}:
            self.seen.logged.append(json.dumps(found)[:500])
        elif method == "Log.entryAdded":
            self.seen.logged.append(f"{found['entry']['level']}: {found['entry']['text']}")
        elif method == "Network.requestWillBeSent" and not found["request"]["url"].startswith(("file:", "data:")):
            self.seen.fetched.append(found["request"]["url"])


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser with a profile of its own, both gone at the end."""
    find_chromium()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, Browser(Path(folder)) as one:
        yield one


if __name__ == "__main__":
    with browser() as ours:
        ours.open(Path(sys.argv[1]), 1280, 800, *sys.argv[3:4])
        Path(sys.argv[2]).write_bytes(ours.screenshot())
