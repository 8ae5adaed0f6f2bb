"""Read the scalar, string and array values of a GGUF header, never past its end and never more than it can hold."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from targets.errors import InputRefused

# The vocabularies of the largest models take 20 MB and 1.5 million elements.
MAX_HEADER = 64 << 20
MAX_STRING = 1 << 20
MAX_ELEMENTS = 1 << 22

Scalar = str | int | float | bool
Value = Scalar | tuple[Scalar, ...]

# id: the struct and numpy code of a fixed-size value, little-endian.
_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 10: "<Q", 11: "<q", 12: "<d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9


def refuse(path: Path, fault: str) -> InputRefused:
    """The error for a malformed GGUF file."""
    return InputRefused(f"{path} is not a sound GGUF file: {fault}", "download it again, or convert the model again")


@dataclass
class Cursor:
    """A position in the bytes of a file.

    Attributes:
        data: the whole file, uint8.
        at: bytes read so far.
        elements: of all arrays so far.
    """

    path: Path
    data: NDArray[np.uint8]
    at: int = 0
    elements: int = 0

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes.

        Raises:
            InputRefused: the file ends before, or the header goes on beyond 64 MiB.
        """
        if count > len(self.data) - self.at:
            raise refuse(self.path, f"it ends inside {what} at byte {self.at}")
        if self.at + count > MAX_HEADER:
            raise refuse(self.path, f"its header goes on beyond {MAX_HEADER} bytes")
        taken = self.data[self.at : self.at + count].tobytes()
        self.at += count
        return taken

    def number(self, code: str, what: str) -> int:
        """The next integer in the struct format `code`."""
        return int(struct.unpack(code, self.take(struct.calcsize(code), what))[0])

    def count(self, what: str, limit: int) -> int:
        """The next 64-bit count, at most `limit`."""
        value = self.number("<Q", what)
        if value > limit:
            raise refuse(self.path, f"{what} is {value}, more than {limit}")
        return value

    def text(self, what: str) -> str:
        """The next string: its 64-bit length, then UTF-8."""
        size = self.count(f"the length of {what}", MAX_STRING)
        try:
            return self.take(size, what).decode("utf-8")
        except UnicodeDecodeError as error:
            raise refuse(self.path, f"{what} is not UTF-8") from error

    def value(self, key: str) -> Value:
        """The next typed metadata value, of the field called `key`."""
        kind = self.number("<I", f"the type of '{key}'")
        return self._array(key) if kind == _ARRAY else self._scalar(kind, key)()

    def _scalar(self, kind: int, key: str) -> Callable[[], Scalar]:
        what = f"the value of '{key}'"
        if kind == _STRING:
            return lambda: self.text(what)
        if kind == _BOOL:
            return lambda: self._truth(self.take(1, what), key)
        if kind not in _NUMBERS:
            raise refuse(self.path, f"'{key}' has the unknown value type {kind}")
        return lambda: self._number(_NUMBERS[kind], what)

    def _number(self, code: str, what: str) -> int | float:
        found: int | float = struct.unpack(code, self.take(struct.calcsize(code), what))[0]
        return found

    def _truth(self, data: bytes, key: str) -> bool:
        if data not in {b"\0", b"\1"}:
            raise refuse(self.path, f"'{key}' is a truth value that is neither 0 nor 1")
        return data == b"\1"

    def _array(self, key: str) -> tuple[Scalar, ...]:
        kind = self.number("<I", f"the element type of '{key}'")
        if kind == _ARRAY:
            raise refuse(self.path, f"'{key}' is an array of arrays")
        read = self._scalar(kind, key)
        smallest = 8 if kind == _STRING else 1 if kind == _BOOL else struct.calcsize(_NUMBERS[kind])
        room = (min(len(self.data), MAX_HEADER) - self.at) // smallest
        size = self.count(f"the element count of '{key}'", min(room, MAX_ELEMENTS))
        self.elements += size
        if self.elements > MAX_ELEMENTS:
            raise refuse(self.path, f"its arrays hold more than {MAX_ELEMENTS} values")
        if kind in _NUMBERS:
            numbers = self.take(size * smallest, f"the elements of '{key}'")
            return tuple(np.frombuffer(numbers, _NUMBERS[kind]).tolist())
        return tuple(read() for _ in range(size))
