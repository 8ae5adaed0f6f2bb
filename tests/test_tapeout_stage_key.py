"""Equal requests have equal keys, any change gives another, and a miss is explained in one sentence."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.digest import canonical_json, digest_files
from tapeout.stage_key import Provenance, Record, explain, nearest_record, stage_key
from targets.errors import IntegrityError, StageFailed

HUB = "a" * 64
OTHER = "b" * 64
# A change of this value makes every stage of every user run again.
KNOWN = "633079b92a6cf82c2a9fd43bb64d7d6e10e9dda0b0e6c94074885727552843a3"
REQUEST: dict[str, Any] = {
    "parameters": {"group_size": 64, "mode": "int4_sym", "search": {"steps": 3}},
    "inputs": {"hub": HUB},
    "tools": {"nncf": "3.3.0"},
    "version": "1",
}

leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
tables = st.dictionaries(st.text(max_size=4), values, max_size=4)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
requests = st.fixed_dictionaries(
    {
        "name": st.text(max_size=5),
        "version": st.text(max_size=3),
        "parameters": tables,
        "inputs": st.dictionaries(st.text(max_size=4), digests, max_size=3),
        "tools": st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3),
    }
)


def backwards(value: Any) -> Any:
    """An equal value whose tables were filled in the other order."""
    if isinstance(value, dict):
        return {name: backwards(value[name]) for name in reversed(value)}
    if isinstance(value, list):
        return [backwards(item) for item in value]
    return value


def record(created: str = "2026-01-01", **changes: Any) -> Record:
    request = {**REQUEST, **changes}
    return Record(
        stage="quantize", created=created, key="c" * 64, object=digest_files({}), files={}, sizes={}, **request
    )


@given(requests)
def test_the_order_of_tables_does_not_matter(request: dict[str, Any]) -> None:
    assert stage_key(**request) == stage_key(**backwards(request))


@given(requests, requests)
def test_different_requests_have_different_keys(one: dict[str, Any], two: dict[str, Any]) -> None:
    same = canonical_json(one) == canonical_json(two)
    assert (stage_key(**one) == stage_key(**two)) == same


@given(requests, st.sampled_from(["name", "version", "parameters", "inputs", "tools"]), st.data())
def test_a_change_of_any_one_field_changes_the_key(request: dict[str, Any], field: str, data: st.DataObject) -> None:
    changed = copy.deepcopy(request)
    if isinstance(changed[field], str):
        changed[field] += data.draw(st.text(min_size=1, max_size=2))
    elif changed[field] and data.draw(st.booleans()):
        del changed[field][data.draw(st.sampled_from(sorted(changed[field])))]
    else:
        changed[field]["new name"] = OTHER
    assert stage_key(**changed) != stage_key(**request)


@pytest.mark.parametrize(
    ("one", "two"),
    [(1, True), (1, 1.0), (1, "1"), (0, None), ("", None), ([], {}), ([1, 2], [2, 1]), ("ab", ["a", "b"])],
)
def test_values_of_different_types_have_different_keys(one: Any, two: Any) -> None:
    assert stage_key("s", "1", {"p": one}, {}, {}) != stage_key("s", "1", {"p": two}, {}, {})


def test_a_name_does_not_move_between_tables() -> None:
    keys = {
        stage_key("s", "1", {"x": HUB}, {}, {}),
        stage_key("s", "1", {}, {"x": HUB}, {}),
        stage_key("s", "1", {}, {}, {"x": HUB}),
    }
    assert len(keys) == 3


def test_the_key_never_changes_between_releases() -> None:
    assert stage_key("quantize", **REQUEST) == KNOWN


@pytest.mark.parametrize("value", [Path("x"), {1: "x"}, math.nan, math.inf, b"x", {"x"}, object()])
def test_what_has_no_canonical_form_is_refused_by_name(value: Any) -> None:
    with pytest.raises(StageFailed, match=r"stage s: parameters\.deep\[1\]"):
        stage_key("s", "1", {"deep": [0, value]}, {}, {})


@pytest.mark.parametrize("digest", ["", "a" * 63, "A" * 64, "g" * 64, "model.onnx"])
def test_an_input_is_named_by_a_whole_digest(digest: str) -> None:
    with pytest.raises(StageFailed, match="input hub"):
        stage_key("s", "1", {}, {"hub": digest}, {})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, "the earlier result is gone"),
        ({"version": "2"}, "its code changed"),
        ({"inputs": {"hub": OTHER}}, "input hub changed"),
        ({"inputs": {}}, "input hub removed"),
        ({"inputs": {"hub": HUB, "calibration": OTHER}}, "input calibration added"),
        ({"tools": {"nncf": "3.4.0"}}, "nncf 3.3.0 -> 3.4.0"),
        ({"tools": {}}, "nncf 3.3.0 -> absent"),
        ({"parameters": {**REQUEST["parameters"], "group_size": 128}}, "parameter group_size changed 64 -> 128"),
        ({"parameters": {**REQUEST["parameters"], "group_size": "64"}}, 'parameter group_size changed 64 -> "64"'),
        ({"parameters": {**REQUEST["parameters"], "search": {"steps": 4}}}, "parameter search.steps changed 3 -> 4"),
        ({"parameters": {**REQUEST["parameters"], "ratio": 1.0}}, "parameter ratio added (1.0)"),
        ({"parameters": {"group_size": 64, "search": {"steps": 3}}}, "parameter mode removed (was int4_sym)"),
        (
            {"parameters": {"a": 1}, "tools": {"nncf": "3.4.0"}},
            "parameter a added (1), parameter group_size removed (was 64), parameter mode removed (was int4_sym) "
            "and 2 more",
        ),
    ],
)
def test_a_miss_is_explained(change: dict[str, Any], sentence: str) -> None:
    assert explain(record(), **{**REQUEST, **change}) == sentence


def test_no_earlier_result() -> None:
    assert nearest_record([], **REQUEST) is None
    assert explain(None, **REQUEST) == "no earlier result"


def test_a_long_value_is_cut_short() -> None:
    sentence = explain(record(), **{**REQUEST, "parameters": {**REQUEST["parameters"], "mode": "x" * 5000}})
    assert len(sentence) < 120


def test_the_nearest_record_has_the_fewest_changes_and_is_the_newest() -> None:
    far = record(created="2026-03-01", version="0", tools={"nncf": "1"}, inputs={})
    old, new = record(created="2026-01-01", version="0"), record(created="2026-02-01", version="0")
    assert nearest_record([far, old, new], **REQUEST) is new
    assert nearest_record([new, old, far], **REQUEST) is new


@given(requests.map(lambda request: {"stage": request.pop("name"), **request}), values, st.floats(0, 1e9))
def test_a_record_reads_back_equal(request: dict[str, Any], value: Any, seconds: float) -> None:
    provenance = Provenance(**request, value=value, seconds=seconds)
    files = {"a/b.bin": HUB}
    made = Record(**vars(provenance), key=OTHER, object=digest_files(files), files=files, sizes={"a/b.bin": 3})
    assert Record.decode(made.encode()) == made


def test_every_flipped_bit_of_a_record_is_found() -> None:
    # 1e-07 and 1E-07 differ in one bit and are the same number.
    data = record(parameters={"learning_rate": 1e-7, "on": True}).encode()
    for place in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(IntegrityError):
            Record.decode(bytes(flipped))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"1", b"null", b'"x"', b"{", b"\xff", b"[" * 20])
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        Record.decode(data)


def test_a_record_cut_short_or_made_longer_is_refused() -> None:
    data = record().encode()
    for wrong in [*(data[:end] for end in range(len(data))), data + b"\n", data + b" ", b" " + data]:
        with pytest.raises(IntegrityError):
            Record.decode(wrong)


def test_a_record_with_a_field_too_many_or_too_few_is_refused() -> None:
    body = json.loads(record().encode())
    for wrong in [{**body, "extra": 1}, {name: body[name] for name in body if name != "stage"}]:
        with pytest.raises(IntegrityError):
            Record.decode(canonical_json(wrong))


def test_a_record_whose_object_is_not_the_digest_of_its_files_is_refused() -> None:
    with pytest.raises(IntegrityError):
        Record.decode(replace(record(), object=OTHER).encode())
