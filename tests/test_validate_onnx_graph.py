"""The reader of ONNX files that a device uses."""

from pathlib import Path

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.errors import InputRefused
from tests.conftest import Packages
from validate.onnx_graph import fields, varint, weight_bytes


def test_every_byte_of_weights_is_given_to_the_node_that_reads_it(tiny_packages: Packages) -> None:
    path = tiny_packages["llama", "w8-sym", "onnxruntime"].folder / "model.onnx"
    graph = ir.load(path).graph
    expected: dict[str, int] = {}
    seen: set[str] = set()
    for node in graph:
        for value in node.inputs:
            if value is not None and value.is_initializer() and value.name not in seen:
                seen.add(str(value.name))
                assert value.const_value is not None
                expected[str(node.name)] = expected.get(str(node.name), 0) + value.const_value.nbytes
    found = {name: size for name, size in weight_bytes(path).items() if size}
    assert found == expected
    assert sum(found.values()) > (path.parent / "model.onnx.data").stat().st_size * 0.95


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    try:
        found = list(fields(data, 0, len(data)))
    except InputRefused:
        return
    assert all(0 <= field.start <= field.end <= len(data) for field in found)


@given(st.integers(0, 2**63 - 1))
def test_numbers_are_read_as_they_are_written(number: int) -> None:
    written = bytearray()
    rest = number
    while rest > 0x7F:
        written.append(rest & 0x7F | 0x80)
        rest >>= 7
    written.append(rest)
    assert varint(bytes(written), 0, len(written)) == (number, len(written))
    with pytest.raises(InputRefused):
        varint(bytes(written), 0, len(written) - 1)


@pytest.mark.parametrize("data", [b"\xff" * 32, b"\x3a\x7f", b"\x3f", b"hello world"])
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(InputRefused):
        weight_bytes(path)
