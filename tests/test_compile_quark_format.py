"""Quark's packed uint4 layout, held against a checkpoint that AMD Quark 0.13 wrote."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from compile.quark_format import PackedWeight, pack, pack_weight, unpack, unpack_weight
from quantize.weight import QuantizedWeight
from targets.errors import StageFailed

SAMPLE = Path(__file__).parent / "data" / "quark_uint4_wo_32.safetensors"


@pytest.fixture(scope="module")
def sample() -> dict[str, NDArray[Any]]:
    return load_file(SAMPLE)


@pytest.fixture(scope="module")
def theirs(sample: dict[str, NDArray[Any]]) -> PackedWeight:
    return PackedWeight(sample["weight"], sample["weight_scale"], sample["weight_zero_point"])


def test_what_quark_packed_is_read_as_the_weight_it_rounded(
    sample: dict[str, NDArray[Any]], theirs: PackedWeight
) -> None:
    weight = unpack_weight(theirs)
    assert weight.codes.shape == sample["float.weight"].shape
    assert weight.group_size == 32
    step = np.repeat(weight.scales, 32, axis=1)
    # Half a step of rounding, and half a step because the zero point is a whole number.
    assert (np.abs(weight.dequantize() - sample["float.weight"]) <= 1.001 * step).all()
    assert np.abs(weight.dequantize() - sample["float.weight"]).mean() < 0.3 * step.mean()


def test_we_pack_a_weight_byte_for_byte_as_quark_does(theirs: PackedWeight) -> None:
    ours = pack_weight(unpack_weight(theirs), "k_proj")
    for field in dataclasses.fields(PackedWeight):
        mine, their = getattr(ours, field.name), getattr(theirs, field.name)
        assert mine.dtype == their.dtype
        assert mine.shape == their.shape
        assert mine.tobytes() == their.tobytes()


def test_outputs_that_do_not_fill_a_word_are_packed_as_quark_does(sample: dict[str, NDArray[Any]]) -> None:
    for words in (sample["odd.weight"], sample["odd.weight_zero_point"]):
        values = unpack(words, 511)
        assert values.shape == (len(words), 511)
        assert pack(values).tobytes() == words.tobytes()


def test_a_symmetric_weight_gets_the_middle_of_the_range_as_zero_point() -> None:
    random = np.random.default_rng(1)
    codes = random.integers(-8, 8, (16, 64)).astype(np.int16)
    weight = QuantizedWeight(codes, random.random((16, 2)).astype(np.float32), None, 4)
    read = unpack_weight(pack_weight(weight, "q_proj"))
    assert read.zero_points is not None
    assert (read.zero_points == 8).all()
    assert read.digest() == weight.digest()


def test_eight_bit_codes_are_refused() -> None:
    weight = QuantizedWeight(np.zeros((8, 32), np.int16), np.ones((8, 1), np.float32), None, 8)
    with pytest.raises(StageFailed, match="q_proj has 8-bit codes"):
        pack_weight(weight, "q_proj")
