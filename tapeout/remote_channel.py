"""The device's end of the connection: requests and bytes from the client, answers to it. Travels as text."""

from __future__ import annotations

import json
import os
import select
import time
from typing import Any

CHUNK = 1 << 20
BEAT_S = 10.0
IDLE_S = 300.0  # a client that says nothing for so long is gone, even if the network has not noticed


class RefusedError(Exception):
    """What the client is told: the name of its error class, what happened, and the next step."""

    def __init__(self, kind: str, what: str, step: str) -> None:
        super().__init__(what)
        self.answer = {"error": {"type": kind, "what": what, "help": step}}


class Channel:
    """Lines and bytes from the client, JSON lines to it."""

    def __init__(self, source: int, answers: int) -> None:
        self.source, self.answers = source, answers
        self.buffer = b""
        self.beaten = time.monotonic()

    def fill(self) -> None:
        """Wait for more; the client being gone ends this process."""
        if not select.select([self.source], [], [], IDLE_S)[0]:
            raise SystemExit(3)
        found = os.read(self.source, CHUNK)
        if not found:
            raise SystemExit(3)
        self.buffer += found

    def read_line(self) -> dict[str, Any]:
        """The next request."""
        while b"\n" not in self.buffer:
            self.fill()
        line, _, self.buffer = self.buffer.partition(b"\n")
        request: dict[str, Any] = json.loads(line)
        return request

    def read_bytes(self, most: int) -> bytes:
        """At least one and at most `most` bytes."""
        if not self.buffer:
            self.fill()
        found, self.buffer = self.buffer[:most], self.buffer[most:]
        return found

    def say(self, message: Any) -> None:
        """One line."""
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self.answers, data) :]
        self.beaten = time.monotonic()

    def beat(self) -> None:
        """Show that work goes on, at most every `BEAT_S`."""
        if time.monotonic() - self.beaten > BEAT_S:
            self.say({"alive": True})
