"""The safetensors header check, against hostile headers and against the library."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from export.safetensors_check import check_safetensors
from export.safetensors_writer import stream_safetensors
from targets.errors import InputRefused, StageFailed


def entry(shape: Any, begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write(path: Path, header: bytes | dict[str, Any], data: int = 0, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + bytes(data))
    return path


TWICE = b'{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
HOSTILE: dict[str, tuple[bytes | dict[str, Any], int, int | None, str]] = {
    "header beyond the file": ({}, 0, 1 << 40, "does not fit"),
    "header beyond the limit": ({}, 0, (1 << 64) - 1, "does not fit"),
    "not JSON": (b"{", 0, None, "not sound JSON"),
    "not an object": (b"[]", 0, None, "not a JSON object"),
    "nested too deep": (b"[" * 100_000, 0, None, "nested too deep"),
    "not UTF-8": (b'{"\xff":1}', 0, None, "not sound JSON"),
    "key twice": (TWICE, 4, None, "appears twice"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, 0, None, "metadata"),
    "entry without shape": ({"t": {"dtype": "F32", "data_offsets": [0, 4]}}, 4, None, "not made of"),
    "unknown dtype": ({"t": entry([1], 0, 4, "F128")}, 4, None, "unknown dtype"),
    "negative shape": ({"t": entry([-1], 0, 4)}, 4, None, "whole numbers"),
    "true as a size": ({"t": entry([True], 0, 4)}, 4, None, "whole numbers"),
    "three offsets": ({"t": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2, 4]}}, 4, None, "whole numbers"),
    "wrong length": ({"t": entry([2], 0, 4)}, 4, None, "4 bytes"),
    "shape that wraps": ({"t": entry([1 << 32, 1 << 32, 1], 0, 0)}, 0, None, "0 bytes"),
    "overlap": ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, 12, None, "overlap"),
    "hole": ({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, 12, None, "hole"),
    "bytes left over": ({"a": entry([1], 0, 4)}, 8, None, "hole"),
    "beyond the end": ({"a": entry([4], 0, 16)}, 8, None, "overlap"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_malformed_header_is_refused_by_its_fault(name: str, tmp_path: Path) -> None:
    header, data, length, fault = HOSTILE[name]
    with pytest.raises(InputRefused, match=fault) as caught:
        check_safetensors(write(tmp_path / "model.safetensors", header, data, length))
    assert caught.value.help


@pytest.mark.parametrize("content", [b"", b"\0", b"\0" * 7])
def test_a_file_shorter_than_its_first_number_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(InputRefused):
        check_safetensors(tmp_path / "model.safetensors")


def test_what_the_library_writes_passes(tmp_path: Path) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "b": np.ones((2, 3), np.float16),
        "a": np.zeros(5, np.int64),
        "empty": np.zeros((0, 4), np.float32),
    }
    save_file(arrays, tmp_path / "model.safetensors", {"format": "pt"})
    found = check_safetensors(tmp_path / "model.safetensors")
    assert {name: tensor.shape for name, tensor in found.items()} == {n: a.shape for n, a in arrays.items()}


def test_the_library_reads_what_we_stream(tmp_path: Path) -> None:
    arrays = {"z": np.arange(12, dtype=np.float32).reshape(3, 4), "a": np.ones(2, np.float32)}

    def rows(name: str) -> Iterator[NDArray[np.float32]]:
        yield from arrays[name].reshape(-1, 2)

    path = tmp_path / "model.safetensors"
    stream_safetensors(path, {name: array.shape for name, array in arrays.items()}, rows)
    assert set(check_safetensors(path)) == set(arrays)
    for name, array in load_file(path).items():
        assert np.array_equal(array, arrays[name])


def test_a_stream_of_the_wrong_length_fails(tmp_path: Path) -> None:
    with pytest.raises(StageFailed):
        stream_safetensors(tmp_path / "m.safetensors", {"a": (3,)}, lambda _: iter([np.ones(2, np.float32)]))


ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "I64", "Q4"]),
        "shape": st.lists(st.sampled_from([0, 1, 2, 3, 1 << 31, 1 << 62, -1]), max_size=3),
        "data_offsets": st.lists(st.sampled_from([0, 2, 4, 8, 12, 16, 1 << 63]), min_size=1, max_size=3),
    }
)


@settings(max_examples=200, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), ENTRIES, max_size=3), st.integers(0, 24))
def test_what_we_accept_the_library_accepts(tmp_path: Path, header: dict[str, Any], data: int) -> None:
    path = write(tmp_path / "model.safetensors", header, data)
    try:
        found = check_safetensors(path)
    except InputRefused:
        return
    try:
        assert set(load_file(path)) == set(found)
    except SafetensorError as error:  # pragma: no cover - the assertion is the report
        pytest.fail(f"the library refuses what we accept: {error}")


@settings(max_examples=100, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=120))
def test_arbitrary_bytes_are_refused_or_read(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "model.safetensors", content)
    with contextlib.suppress(InputRefused):
        check_safetensors(path)
