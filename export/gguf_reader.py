"""Read a GGUF file that nobody vouches for: every count, length and offset is checked before it is used."""

import stat
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.gguf_cursor import Cursor, Value, refuse
from export.gguf_types import MAX_DIMENSIONS, TENSOR_TYPES, TensorInfo
from targets.errors import InputRefused

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_TENSORS = 1 << 16
MAX_FIELDS = 1 << 16
MAX_ALIGNMENT = 1 << 20
MAX_WEIGHTS = 1 << 48
MAX_PADDING = 1 << 16


@dataclass(frozen=True)
class GgufModel:
    """A checked GGUF file.

    Attributes:
        metadata: every field, with arrays as tuples.
        tensors: in the order of the file.
        mapped: the bytes that were checked: what is read later comes from the same open file.
    """

    path: Path
    metadata: dict[str, Value]
    tensors: tuple[TensorInfo, ...]
    mapped: NDArray[np.uint8] = field(repr=False, compare=False)

    def data(self, tensor: TensorInfo) -> NDArray[np.uint8]:
        """The stored bytes of one tensor, mapped and not read: uint8 [rows, bytes of a row]."""
        rows = tensor.n_weights // tensor.shape[-1]
        return self.mapped[tensor.offset : tensor.offset + tensor.n_bytes].reshape(rows, -1)


def read_gguf(path: Path) -> GgufModel:
    """Check the header of a GGUF file and describe its content.

    Raises:
        InputRefused: the file is missing, truncated, malformed or beyond the bounds of this module.
    """
    cursor = Cursor(path, map_file(path))
    if len(cursor.data) < 4 or cursor.take(4, "the magic") != MAGIC:
        raise refuse(path, "it does not start with 'GGUF'")
    version = cursor.number("<I", "the version")
    if version not in VERSIONS:
        raise refuse(path, f"version {version} is not among the little-endian versions {VERSIONS}")
    n_tensors = cursor.count("the number of tensors", MAX_TENSORS)
    n_fields = cursor.count("the number of metadata fields", MAX_FIELDS)
    metadata = _read_metadata(cursor, n_fields)
    records = _read_records(cursor, n_tensors)
    tensors = _place(cursor, records, _alignment(path, metadata))
    return GgufModel(path, metadata, tensors, cursor.data)


def map_file(path: Path) -> NDArray[np.uint8]:
    """The bytes of a regular file, mapped read-only.

    Raises:
        InputRefused: there is no such file, it cannot be read, or it is not a regular one.
    """
    try:
        # Opening a pipe would wait for a writer.
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputRefused(f"{path} is not a regular file", "give the path of the model file itself")
        return np.memmap(path, np.uint8, "r") if status.st_size else np.empty(0, np.uint8)
    except OSError as error:
        raise InputRefused(f"{path} cannot be read: {error.strerror}", "check the path and its permissions") from error


def _read_metadata(cursor: Cursor, count: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for _ in range(count):
        key = cursor.text("a metadata key")
        if key in metadata:
            raise refuse(cursor.path, f"the field '{key}' appears twice")
        metadata[key] = cursor.value(key)
    return metadata


def _alignment(path: Path, metadata: dict[str, Value]) -> int:
    value = metadata.get("general.alignment", 32)
    if not isinstance(value, int) or not 1 <= value <= MAX_ALIGNMENT or value & (value - 1):
        raise refuse(path, f"the alignment {value!r} is not a power of two up to {MAX_ALIGNMENT}")
    return value


def _read_records(cursor: Cursor, count: int) -> list[TensorInfo]:
    records: dict[str, TensorInfo] = {}
    for _ in range(count):
        record = _read_record(cursor)
        if record.name in records:
            raise refuse(cursor.path, f"the tensor '{record.name}' appears twice")
        records[record.name] = record
    return list(records.values())


def _read_record(cursor: Cursor) -> TensorInfo:
    """One tensor record; its offset is still relative to the data section."""
    name = cursor.text("a tensor name")
    n_dimensions = cursor.number("<I", f"the dimensions of '{name}'")
    if not 1 <= n_dimensions <= MAX_DIMENSIONS:
        raise refuse(cursor.path, f"'{name}' has {n_dimensions} dimensions")
    shape = tuple(cursor.count(f"a dimension of '{name}'", MAX_WEIGHTS) for _ in range(n_dimensions))[::-1]
    kind = cursor.number("<I", f"the type of '{name}'")
    offset = cursor.number("<Q", f"the offset of '{name}'")
    if kind not in TENSOR_TYPES:
        raise refuse(cursor.path, f"'{name}' has the unknown tensor type {kind}")
    type_name, block, block_bytes = TENSOR_TYPES[kind]
    record = TensorInfo(name, shape, type_name, offset, 0)
    if not 1 <= record.n_weights <= MAX_WEIGHTS or shape[-1] % block:
        raise refuse(cursor.path, f"'{name}' has the shape {list(shape)}, impossible for {type_name}")
    return TensorInfo(name, shape, type_name, offset, record.n_weights // block * block_bytes)


def _place(cursor: Cursor, records: list[TensorInfo], alignment: int) -> tuple[TensorInfo, ...]:
    """The records with offsets from the start of the file, proven to lie inside it and apart."""
    start = -(-cursor.at // alignment) * alignment
    placed = tuple(TensorInfo(r.name, r.shape, r.ggml_type, start + r.offset, r.n_bytes) for r in records)
    end = start
    for tensor in sorted(placed, key=lambda tensor: tensor.offset):
        if (tensor.offset - start) % alignment:
            raise refuse(cursor.path, f"'{tensor.name}' is not aligned to {alignment} bytes")
        if tensor.offset < end:
            raise refuse(cursor.path, f"'{tensor.name}' overlaps the tensor before it")
        end = tensor.offset + tensor.n_bytes
        if end > len(cursor.data):
            raise refuse(cursor.path, f"it ends inside the weights of '{tensor.name}'")
    # Writers pad to the alignment, some to a page; more is nothing a model needs, and all of it would be hashed.
    if len(cursor.data) - end > max(alignment, MAX_PADDING):
        raise refuse(cursor.path, f"{len(cursor.data) - end} bytes come after its last tensor")
    return placed
