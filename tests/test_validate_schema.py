import copy
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.sample_report import failing_report, passing_report, poisoned, sample_report
from validate.report import Report, to_json
from validate.report_schema import PUBLISHED


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("make", [sample_report, failing_report, passing_report, lambda: poisoned(sample_report())])
def test_a_report_is_what_the_published_schema_says(
    make: Callable[[], Report], validator: Draft202012Validator
) -> None:
    assert list(validator.iter_errors(json.loads(to_json(make())))) == []


def without(document: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != name}


def test_the_schema_refuses_what_is_no_report(validator: Draft202012Validator) -> None:
    good = json.loads(to_json(sample_report()))
    for name in [
        one.name for one in dataclasses.fields(Report) if one.default is one.default_factory is dataclasses.MISSING
    ]:
        assert not validator.is_valid(without(good, name)), name
    assert not validator.is_valid({**good, "schema_version": 2})
    assert not validator.is_valid({**good, "verdict": "MAYBE"})
    worse = copy.deepcopy(good)
    worse["devices"][0]["runtimes"][0]["candidates"][0]["gates"][0]["value"] = "0.3"
    assert not validator.is_valid(worse)


def test_every_field_is_explained() -> None:
    schema = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    parts = {"Report": schema, **schema["$defs"]}
    bare = [
        f"{name}.{field}"
        for name, part in parts.items()
        for field, value in part.get("properties", {}).items()
        if "description" not in value
    ]
    assert [field for field in bare if not field.startswith("DeviceReport.")] == []
