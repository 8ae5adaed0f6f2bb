"""The layout of report.json as JSON Schema (draft 2020-12), with every field's meaning from the code's own words."""

import dataclasses
import inspect
import json
import re
from pathlib import Path
from typing import Any

from validate.report import SCHEMA_VERSION, Report

PUBLISHED = Path(__file__).parent / "schema" / f"report-{SCHEMA_VERSION}.schema.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
FIELD = re.compile(r"(\w+): (.*)")


def json_schema() -> dict[str, Any]:
    """JSON Schema of a report of this version."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(Report).json_schema()
    found = {cls.__name__: cls for cls in _classes(Report)}
    for name, part in {**schema["$defs"], "Report": schema}.items():
        if name in found:
            _explain(part, found[name])
    schema["properties"]["schema_version"]["const"] = SCHEMA_VERSION
    head = {"$schema": DIALECT, "$id": f"urn:tapeout:report:{SCHEMA_VERSION}", "title": "Tapeout validation report"}
    return head | {name: value for name, value in schema.items() if name != "title"}


def published_text() -> str:
    """What the published file holds."""
    return json.dumps(json_schema(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _classes(root: type) -> list[type]:
    """`root` and every dataclass that one of its fields names, once each."""
    found: list[type] = []
    waiting: list[Any] = [root]
    while waiting:
        one = waiting.pop()
        waiting += getattr(one, "__args__", ())
        if isinstance(one, type) and dataclasses.is_dataclass(one) and one not in found:
            found.append(one)
            waiting += inspect.get_annotations(one, eval_str=True).values()
    return found


def _explain(part: dict[str, Any], cls: type) -> None:
    """The class's summary and its fields' meanings, in place of pydantic's copy of the whole docstring."""
    summary, _, attributes = inspect.cleandoc(cls.__doc__ or "").partition("\n\nAttributes:\n")
    part["description"] = " ".join(summary.split())
    meanings: dict[str, str] = {}
    name = ""
    for line in attributes.splitlines():
        field = FIELD.fullmatch(line.removeprefix("    "))
        if field and not line.startswith("     "):
            name, meanings[field[1]] = field[1], field[2]
        elif name:
            meanings[name] += f" {line.strip()}"
    for name, value in part.get("properties", {}).items():
        value.pop("title", None)
        if name in meanings:
            value["description"] = meanings[name]
