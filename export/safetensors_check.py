"""Check the header of a safetensors file before any library maps it."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.strict_json import parse_object
from targets.errors import InputRefused

# The format allows 100 MB. A decoder of a thousand layers needs 2 MB, and a parsed header takes 20 times its size.
MAX_HEADER = 8 << 20
MAX_DIMENSIONS = 8
MAX_BYTES = 1 << 48
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file; `begin` and `end` are bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def check_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file whose header proves to be sound, by name.

    Raises:
        InputRefused: the file is no regular readable one, or its header is too long, malformed, contradicts itself or
            the size of the file, leaves holes, or lets tensors overlap.
    """
    header, room = _read_header(path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _refuse(path, "its metadata are not strings")
    tensors = {name: _tensor(path, name, entry) for name, entry in header.items()}
    ordered = sorted(tensors.values(), key=lambda tensor: (tensor.begin, tensor.end))
    ends = [0, *(tensor.end for tensor in ordered)]
    begins = [*(tensor.begin for tensor in ordered), room]
    for end, begin in zip(ends, begins, strict=True):
        if begin != end:
            raise _refuse(path, f"its tensors {'overlap' if begin < end else 'leave a hole'} at byte {begin}")
    return tensors


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header and how many bytes follow it."""
    try:
        if not path.is_file():
            raise InputRefused(f"{path} is not a regular file", "give the path of the model's folder")
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(MAX_HEADER, size - 8):
                raise _refuse(path, f"its header of {length} bytes does not fit into {size} bytes")
            return parse_object(stream.read(length), f"the header of {path}"), size - 8 - length
    except OSError as error:
        raise InputRefused(f"{path} cannot be read: {error.strerror}", "check the path and its permissions") from error


def _tensor(path: Path, name: str, entry: Any) -> StoredTensor:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _refuse(path, f"the entry of {name!r} is not made of dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise _refuse(path, f"{name!r} has the unknown dtype {dtype!r}")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise _refuse(path, f"the shape or the offsets of {name!r} are not whole numbers")
    if len(shape) > MAX_DIMENSIONS:
        raise _refuse(path, f"{name!r} has {len(shape)} dimensions")
    # Python's integers do not wrap; the bound keeps them small.
    sizes = itertools.accumulate(shape, lambda total, size: min(total * size, MAX_BYTES), initial=DTYPE_BYTES[dtype])
    *_, n_bytes = sizes
    if n_bytes >= MAX_BYTES or offsets[1] - offsets[0] != n_bytes:
        raise _refuse(path, f"{name!r} has {offsets[1] - offsets[0]} bytes for {dtype} {shape}")
    return StoredTensor(dtype, tuple(shape), offsets[0], offsets[1])


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < MAX_BYTES for value in values)


def _refuse(path: Path, fault: str) -> InputRefused:
    return InputRefused(
        f"{path} is not a sound safetensors file: {fault}", "download it again, or convert the model again"
    )
