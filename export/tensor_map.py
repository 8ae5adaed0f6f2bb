"""Where the tensors of a model's folder are: file, offset and type of each, and its numbers without mapping a file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.folder_check import weight_files
from export.safetensors_check import check_safetensors

# Little-endian numpy types by safetensors' names. bfloat16 is the upper half of a float32.
STORED_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class TensorPlace:
    """One stored tensor.

    Attributes:
        path: the safetensors file.
        dtype: as safetensors names it: F32, F16 or BF16.
        shape: rows first.
        offset: bytes from the start of the file.
        n_bytes: its size.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int

    def read(self) -> NDArray[np.float32]:
        """The numbers as float32, in memory of their own.

        The file is read, not mapped: mapped pages would count as resident until the kernel wants them back.
        """
        stored = np.fromfile(self.path, STORED_TYPES[self.dtype], self.n_bytes // self.item_bytes, offset=self.offset)
        return widen(stored, self.dtype).reshape(self.shape)

    def read_range(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` of a matrix [rows, columns] as float32."""
        columns = self.shape[1]
        offset = self.offset + start * columns * self.item_bytes
        stored = np.fromfile(self.path, STORED_TYPES[self.dtype], (stop - start) * columns, offset=offset)
        return widen(stored, self.dtype).reshape(-1, columns)

    def read_rows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Some rows of a matrix [rows, columns] as float32."""
        return np.concatenate([self.read_range(int(row), int(row) + 1) for row in rows])

    @property
    def item_bytes(self) -> int:
        """Bytes of one number."""
        return np.dtype(STORED_TYPES[self.dtype]).itemsize


def widen(stored: NDArray[np.generic], dtype: str) -> NDArray[np.float32]:
    """Stored numbers as float32; exact for every type."""
    if dtype == "BF16":
        return (stored.astype("<u4") << 16).view(np.float32)
    return stored.astype(np.float32, copy=False)


def tensor_places(folder: Path) -> Mapping[str, TensorPlace]:
    """Every tensor of a checked folder by name; no number is read.

    Raises:
        InputRefused: a file is not sound.
    """
    found = {}
    for name in weight_files(folder):
        path = folder / name
        with path.open("rb") as stream:
            start = 8 + int.from_bytes(stream.read(8), "little")
        for tensor, stored in check_safetensors(path).items():
            found[tensor] = TensorPlace(
                path, stored.dtype, stored.shape, start + stored.begin, stored.end - stored.begin
            )
    return found
