"""The in-vehicle suite itself: every call is valid, every request is its own, and everything is covered."""

import difflib
import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from validate.golden_text import prompts, texts
from validate.vehicle import Request, options, requests, system_prompt, tool_of, tools

CATEGORIES = ("navigation", "climate", "media", "calls", "settings", "refusal", "out_of_domain")
SIMILAR = 0.85  # of difflib: two spellings of one request


def fault_of(value: Any, schema: dict[str, Any]) -> str | None:
    """Why `value` breaks the part of JSON Schema that the suite uses; None when it does not."""
    kinds: dict[str, tuple[type, ...]] = {
        "string": (str,),
        "boolean": (bool,),
        "integer": (int,),
        "number": (int, float),
        "object": (dict,),
    }
    known = {"type", "enum", "minimum", "maximum", "multipleOf", "minLength", "maxLength", "pattern"}
    known |= {"properties", "required", "additionalProperties"}
    if not schema.keys() <= known:
        return f"unknown keywords {sorted(schema.keys() - known)}"
    kind = schema["type"]
    if type(value) not in kinds[kind]:
        return f"{value!r} is no {kind}"
    if kind == "object":
        if set(value) != set(schema["required"]) or set(schema["properties"]) != set(schema["required"]):
            return f"has {sorted(value)}, not {schema['required']}"
        faults = (fault_of(value[key], schema["properties"][key]) for key in value)
        return next((fault for fault in faults if fault), None)
    return next((f"{value!r} breaks {key}" for key in schema if breaks(value, key, schema[key])), None)


def breaks(value: Any, keyword: str, bound: Any) -> bool:
    """Whether `value`, of the right type, breaks one keyword of its schema."""
    holds: dict[str, Callable[[], bool]] = {
        "enum": lambda: value in bound,
        "minimum": lambda: value >= bound,
        "maximum": lambda: value <= bound,
        "multipleOf": lambda: float(value / bound).is_integer(),
        "minLength": lambda: len(value) >= bound,
        "maxLength": lambda: len(value) <= bound,
        "pattern": lambda: re.search(bound, value) is not None,
    }
    return keyword in holds and not holds[keyword]()


def schema_of(call: dict[str, Any]) -> dict[str, Any]:
    return {tool.name: tool.arguments for tool in tools()}[call["name"]]


@pytest.mark.parametrize("request_", requests(), ids=lambda request: request.id)
def test_every_call_is_valid(request_: Request) -> None:
    call = json.loads(request_.call)
    assert fault_of(call["arguments"], schema_of(call)) is None
    assert list(call["arguments"]) == list(schema_of(call)["properties"])
    assert set(call) == {"name", "arguments"}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("set_fan", {"level": 9}),
        ("set_fan", {"level": 2.5}),
        ("set_fan", {"level": True}),
        ("set_fan", {}),
        ("set_temperature", {"zone": "driver", "celsius": 21.3}),
        ("set_temperature", {"zone": "roof", "celsius": 21}),
        ("call_number", {"number": "12-34"}),
        ("set_lock", {"locked": "yes"}),
        ("end_route", {"now": True}),
    ],
)
def test_the_check_finds_a_wrong_call(name: str, arguments: dict[str, Any]) -> None:
    assert fault_of(arguments, schema_of({"name": name})) is not None


def test_there_are_enough_of_everything() -> None:
    assert len(requests()) >= 300
    assert Counter(request.language for request in requests())["de"] >= 90
    by_category = Counter((request.language, request.category) for request in requests())
    for language in ("en", "de"):
        assert all(by_category[language, category] >= 7 for category in CATEGORIES)
    assert all(by_category["en", category] >= 30 for category in CATEGORIES[:5])
    assert {request.category for request in requests()} == set(CATEGORIES)
    assert {tool_of(request.call) for request in requests()} == {tool.name for tool in tools()}


def test_numbers_names_and_corrections_are_covered() -> None:
    values = [list(json.loads(request.call)["arguments"].values()) for request in requests()]
    names = [tool_of(request.call) in ("call_contact", "send_message", "navigate_to", "play") for request in requests()]
    assert sum(any(type(value) in (int, float) for value in row) for row in values) >= 60
    assert sum(names) >= 60
    assert sum(request.correction for request in requests()) >= 40


def test_refusals_and_what_is_out_of_domain_are_declined() -> None:
    for request in requests():
        declined = tool_of(request.call) == "decline"
        assert declined == (request.category in ("refusal", "out_of_domain"))
        if request.category == "out_of_domain":
            assert json.loads(request.call)["arguments"]["reason"] == "out_of_domain"


def test_no_request_is_said_twice() -> None:
    assert len({request.id for request in requests()}) == len(requests())
    said = [re.sub(r"\W+", " ", request.user.casefold()).strip() for request in requests()]
    assert len(set(said)) == len(said)
    close = []
    for index, one in enumerate(said):
        matcher = difflib.SequenceMatcher(b=one, autojunk=False)
        for other in said[:index]:
            matcher.set_seq1(other)
            if matcher.real_quick_ratio() > SIMILAR and matcher.quick_ratio() > SIMILAR and matcher.ratio() > SIMILAR:
                close.append((one, other))
    assert close == []


def test_the_suite_shares_nothing_with_the_golden_texts() -> None:
    golden = "\n".join([*texts(), *prompts()]).casefold()
    assert [request.user for request in requests() if request.user.casefold().strip(" .!?") in golden] == []


def test_options_are_distinct_fixed_and_hard() -> None:
    category = {tool.name: tool.category for tool in tools()}
    same_tool = 0
    for request in requests():
        offered = options(request)
        assert offered[0] == request.call
        assert len(set(offered)) == len(offered) == 5
        kinds = [category[tool_of(call)] == category[tool_of(request.call)] for call in offered[1:]]
        assert sum(kinds) >= 1
        assert sum(kinds) <= 2
        same_tool += sum(tool_of(call) == tool_of(request.call) for call in offered[1:])
    assert same_tool >= 0.9 * len(requests())
    assert options(requests()[0]) == options.__wrapped__(requests()[0])


def test_every_beginning_of_the_suite_is_a_mixture() -> None:
    for count in (40, 80, 160):
        asked = requests()[:count]
        assert {request.category for request in asked} == set(CATEGORIES)
        share = sum(request.language == "de" for request in asked) / count
        assert 0.2 < share < 0.5


def test_the_prompt_names_every_tool_and_value_in_one_line_each() -> None:
    lines = system_prompt().splitlines()[1:]
    assert len(lines) == len(tools())
    assert "set_temperature(zone: driver|passenger|rear|all, celsius: 16..30)" in lines
    assert "end_route()" in lines
    assert "set_lock(locked: true|false)" in lines
