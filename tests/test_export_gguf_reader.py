"""The GGUF reader answers hostile files at once and with a typed refusal."""

import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.gguf_reader import GgufModel, read_gguf
from export.gguf_types import TENSOR_TYPES
from targets.errors import InputRefused
from tests.tiny_gguf import Decoder, byte_level, tensors_of, write_model

UINT32, STRING, ARRAY = 4, 8, 9


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def field(key: str, kind: int, payload: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + payload


def record(name: str, dimensions: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    sizes = b"".join(struct.pack("<Q", size) for size in dimensions)
    return text(name) + struct.pack("<I", len(dimensions)) + sizes + struct.pack("<IQ", kind, offset)


def gguf(fields: tuple[bytes, ...] = (), records: tuple[bytes, ...] = (), data: int = 0, version: int = 3) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(records), len(fields)) + b"".join(fields + records)
    return head + bytes(-len(head) % 32 + data)


def refused(path: Path) -> InputRefused:
    started = time.perf_counter()
    with pytest.raises(InputRefused) as caught:
        read_gguf(path)
    assert time.perf_counter() - started < 1
    assert caught.value.exit_code == 4
    assert caught.value.help
    assert str(path) in caught.value.what
    return caught.value


HOSTILE = {
    "empty": (b"", "start with"),
    "not gguf": (b"PK\3\4" + bytes(60), "start with"),
    "version 1": (gguf(version=1), "version 1"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version"),
    "too many tensors": (b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0), "number of tensors"),
    "too many fields": (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 40), "number of metadata fields"),
    "array of 2^63 bytes": (gguf((field("k", ARRAY, struct.pack("<IQ", 0, 1 << 63)),))[:49], "element count"),
    "array of 2^63 strings": (gguf((field("k", ARRAY, struct.pack("<IQ", STRING, 1 << 63)),)), "element count"),
    "array of arrays": (gguf((field("k", ARRAY, struct.pack("<IQ", ARRAY, 1)),)), "array of arrays"),
    "long string": (gguf((field("k", STRING, struct.pack("<Q", 1 << 62)),)), "length"),
    "long key": (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 63), "length"),
    "unknown value type": (gguf((field("k", 99, bytes(8)),)), "unknown value type"),
    "bad truth value": (gguf((field("k", 7, b"\2"),)), "truth value"),
    "not UTF-8": (gguf((field("k", STRING, struct.pack("<Q", 1) + b"\xff"),)), "UTF-8"),
    "field twice": (gguf((field("k", UINT32, bytes(4)),) * 2), "twice"),
    "tensor twice": (gguf((), (record("t", (4,)),) * 2, 16), "twice"),
    "alignment 3": (gguf((field("general.alignment", UINT32, struct.pack("<I", 3)),)), "alignment"),
    "alignment 0": (gguf((field("general.alignment", UINT32, bytes(4)),)), "alignment"),
    "alignment 2^31": (gguf((field("general.alignment", UINT32, struct.pack("<I", 1 << 31)),)), "alignment"),
    "alignment of text": (gguf((field("general.alignment", STRING, text("32")),)), "alignment"),
    "no dimensions": (gguf((), (record("t", ()),)), "0 dimensions"),
    "five dimensions": (gguf((), (record("t", (1,) * 5),)), "5 dimensions"),
    "size that wraps": (gguf((), (record("t", (1 << 33, 1 << 33)),), 64), "shape"),
    "size 0": (gguf((), (record("t", (0, 4)),)), "shape"),
    "half a block": (gguf((), (record("t", (48,), kind=2),), 64), "impossible for Q4_0"),
    "unknown tensor type": (gguf((), (record("t", (4,), kind=77),), 64), "unknown tensor type"),
    "offset outside": (gguf((), (record("t", (4,), offset=1 << 50),), 64), "ends inside the weights"),
    "offset that wraps": (gguf((), (record("t", (4,), offset=(1 << 64) - 32),), 64), "ends inside the weights"),
    "offset not aligned": (gguf((), (record("t", (4,), offset=4),), 64), "not aligned"),
    "overlap": (gguf((), (record("a", (16,)), record("b", (16,), offset=32)), 128), "overlaps"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_malformed_file_is_refused_by_its_fault(name: str, tmp_path: Path) -> None:
    content, fault = HOSTILE[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert fault in refused(path).what


def test_the_49_byte_file_that_hangs_other_readers_has_49_bytes() -> None:
    assert len(HOSTILE["array of 2^63 bytes"][0]) == 49


def test_what_is_not_a_readable_regular_file_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "missing.gguf")
    refused(tmp_path)
    os.mkfifo(tmp_path / "pipe.gguf")
    refused(tmp_path / "pipe.gguf")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("gguf") / "tiny.gguf", Decoder(layers=1), byte_level("gpt-2"))


def test_a_sound_file_is_described_as_the_reference_reader_describes_it(tiny: Path) -> None:
    ours, theirs = read_gguf(tiny), GGUFReader(tiny)
    fields = {key: value.contents() for key, value in theirs.fields.items() if not key.startswith("GGUF.")}
    assert {key: list(v) if isinstance(v, tuple) else v for key, v in ours.metadata.items()} == fields
    for tensor, other in zip(ours.tensors, theirs.tensors, strict=True):
        assert (tensor.name, tensor.shape[::-1]) == (other.name, tuple(other.shape.tolist()))
        assert (tensor.offset, tensor.n_bytes) == (other.data_offset, other.n_bytes)


def test_data_are_the_stored_bytes(tiny: Path) -> None:
    ours = read_gguf(tiny)
    written = tensors_of(Decoder(layers=1), len(byte_level("gpt-2").tokens))
    for tensor in ours.tensors:
        assert np.array_equal(ours.data(tensor).reshape(-1).view(np.float32), written[tensor.name].reshape(-1))


def test_every_tensor_type_has_the_block_size_of_ggml() -> None:
    for number, (name, weights, size) in TENSOR_TYPES.items():
        assert GGMLQuantizationType(number).name == name
        assert GGML_QUANT_SIZES[GGMLQuantizationType(number)] == (weights, size)


def test_every_truncation_is_refused(tiny: Path, tmp_path: Path) -> None:
    content = tiny.read_bytes()
    for size in [*range(0, 400, 7), *range(400, len(content), len(content) // 60), len(content) - 1]:
        (tmp_path / "cut.gguf").write_bytes(content[:size])
        refused(tmp_path / "cut.gguf")


def accepted_or_refused(path: Path) -> None:
    try:
        found = read_gguf(path)
    except InputRefused:
        return
    assert isinstance(found, GgufModel)
    size = path.stat().st_size
    assert all(0 <= tensor.offset <= tensor.offset + tensor.n_bytes <= size for tensor in found.tensors)


HERE = settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])


@HERE
@given(st.binary(max_size=300))
def test_arbitrary_bytes_after_the_magic(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", 3) + content)
    accepted_or_refused(path)


@HERE
@given(st.data())
def test_changed_bytes_in_a_sound_file(tiny: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(tiny.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        # Half of the changes hit the counts and the first fields.
        limit = data.draw(st.sampled_from([600, len(content) - 8]))
        at = data.draw(st.integers(0, limit))
        value = data.draw(st.sampled_from([0, 1, 255, 1 << 31, 1 << 62, (1 << 64) - 1]))
        content[at : at + 8] = struct.pack("<Q", value)
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    accepted_or_refused(path)
