"""Read from an ONNX file which node reads how many bytes of weights: a device has no onnx package.

Only the fields that answer this are read. Field numbers are those of onnx.proto3 (ONNX, IR version 13); the wire format
is Protocol Buffers' own.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from targets.errors import InputRefused

MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_INITIALIZER = 1, 5
NODE_INPUT, NODE_NAME = 1, 3
TENSOR_NAME, TENSOR_RAW_DATA, TENSOR_EXTERNAL_DATA = 8, 9, 13
ENTRY_KEY, ENTRY_VALUE = 1, 2

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
LONGEST_VARINT = 10


@dataclass(frozen=True)
class Field:
    """One field of a message: its number and where its bytes are; a number has none."""

    number: int
    start: int
    end: int


def weight_bytes(path: Path) -> dict[str, int]:
    """Bytes of the stored tensors that each node reads, by node name; a tensor counts where it is read first.

    Raises:
        InputRefused: not an ONNX file.
    """
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        graph = next((field for field in fields(data, 0, len(data)) if field.number == MODEL_GRAPH), None)
        if graph is None:
            raise InputRefused(f"{path.name} holds no graph", "build the package again")
        inside = list(fields(data, graph.start, graph.end))
        sizes = dict(tensor_size(data, field) for field in inside if field.number == GRAPH_INITIALIZER)
        found: dict[str, int] = {}
        for field in inside:
            if field.number == GRAPH_NODE:
                name, inputs = node_inputs(data, field)
                found[name] = found.get(name, 0) + sum(sizes.pop(each, 0) for each in inputs)
        return found


def fields(data: mmap.mmap | bytes, start: int, end: int) -> Iterator[Field]:
    """The fields of the message in `data[start:end]`.

    Raises:
        InputRefused: the bytes are not a message.
    """
    at = start
    while at < end:
        key, at = varint(data, at, end)
        number, kind = key >> 3, key & 7
        if kind == LENGTH_DELIMITED:
            length, at = varint(data, at, end)
        elif kind == VARINT:
            _, after = varint(data, at, end)
            length = after - at
        elif kind in {FIXED64, FIXED32}:
            length = 8 if kind == FIXED64 else 4
        else:
            raise InputRefused(f"byte {at} of the ONNX file starts a field of kind {kind}", "build the package again")
        if length > end - at:
            raise InputRefused(f"a field at byte {at} of the ONNX file ends outside it", "build the package again")
        yield Field(number, at, at + length)
        at += length


def varint(data: mmap.mmap | bytes, at: int, end: int) -> tuple[int, int]:
    """(value, position after it) of a base-128 number of at most 64 bits."""
    value = 0
    for count in range(LONGEST_VARINT):
        if at + count >= end:
            break
        byte = data[at + count]
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return value, at + count + 1
    raise InputRefused(f"byte {at} of the ONNX file starts no number", "build the package again")


def tensor_size(data: mmap.mmap | bytes, tensor: Field) -> tuple[str, int]:
    """(name, bytes) of a stored tensor, in the file or beside it; small ones in typed fields count as nothing."""
    name, size = "", 0
    for field in fields(data, tensor.start, tensor.end):
        if field.number == TENSOR_NAME:
            name = text(data, field)
        elif field.number == TENSOR_RAW_DATA:
            size = field.end - field.start
        elif field.number == TENSOR_EXTERNAL_DATA:
            entry = {part.number: text(data, part) for part in fields(data, field.start, field.end)}
            if entry.get(ENTRY_KEY) == "length" and entry.get(ENTRY_VALUE, "").isdecimal():
                size = int(entry[ENTRY_VALUE])
    return name, size


def node_inputs(data: mmap.mmap | bytes, node: Field) -> tuple[str, list[str]]:
    """(name, input names) of a node."""
    name, inputs = "", []
    for field in fields(data, node.start, node.end):
        if field.number == NODE_NAME:
            name = text(data, field)
        elif field.number == NODE_INPUT:
            inputs.append(text(data, field))
    return name, inputs


def text(data: mmap.mmap | bytes, field: Field) -> str:
    """A field's text."""
    return data[field.start : field.end].decode(errors="replace")
