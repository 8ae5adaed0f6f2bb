"""The in-vehicle suite: spoken requests, the tools a car offers, and the one right call of each request."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

TOOLS = "tools.json"
REQUESTS = "requests.jsonl"

# How the options of a request are drawn: one other call of the right tool, the next two of its category, the rest not.
SAME_TOOL, SAME_CATEGORY, OTHERS = 1, 1, 2

INSTRUCTION = (
    "You are the voice assistant of a car. Answer every request, English or German, with exactly one call of one of "
    'these tools, as JSON: {"name":...,"arguments":{...}}. Leave names and texts in the words of the request.'
)


@dataclass(frozen=True)
class Tool:
    """Something the car can do.

    Attributes:
        name: as it is called.
        category: navigation, climate, media, calls, settings, or refusal for the tool that declines.
        description: one sentence.
        arguments: JSON Schema of the arguments, an object whose properties are all required.
    """

    name: str
    category: str
    description: str
    arguments: dict[str, Any]

    @property
    def signature(self) -> str:
        """The tool in one line, as the prompt lists it."""
        properties = self.arguments["properties"]
        return f"{self.name}({', '.join(f'{name}: {values_of(schema)}' for name, schema in properties.items())})"


@dataclass(frozen=True)
class Request:
    """What somebody says in the car.

    Attributes:
        id: unique.
        language: `en` or `de`.
        category: of the request; `refusal` and `out_of_domain` are declined.
        user: the words.
        call: compact JSON of the one right call.
        correction: the speaker takes something back.
    """

    id: str
    language: str
    category: str
    user: str
    call: str
    correction: bool


def values_of(schema: Mapping[str, Any]) -> str:
    """The values of one argument, in the prompt's short form."""
    if "enum" in schema:
        return "|".join(schema["enum"])
    if "minimum" in schema:
        return f"{schema['minimum']}..{schema['maximum']}"
    return "true|false" if schema["type"] == "boolean" else "text"


def call_text(call: Mapping[str, Any]) -> str:
    """A call as a model has to write it: compact JSON, name first, arguments in the order of the schema."""
    return json.dumps({"name": call["name"], "arguments": call["arguments"]}, ensure_ascii=False, separators=(",", ":"))


def read_suite_file(name: str) -> str:
    """A file of `validate/texts/vehicle`."""
    return files("validate").joinpath("texts", "vehicle", name).read_text(encoding="utf-8")


@cache
def tools() -> tuple[Tool, ...]:
    """The declared tools, in order."""
    return tuple(Tool(**row) for row in json.loads(read_suite_file(TOOLS)))


@cache
def requests() -> tuple[Request, ...]:
    """The requests, in an order of their own in which every beginning is a mixture of categories and languages."""
    rows = [json.loads(line) for line in read_suite_file(REQUESTS).splitlines()]
    found = [
        Request(
            row["id"],
            row["language"],
            row["category"],
            row["user"],
            call_text(row["call"]),
            row.get("correction", False),
        )
        for row in rows
    ]
    return tuple(sorted(found, key=lambda request: order(request.id)))


@cache
def system_prompt() -> str:
    """What the car tells the model before every request."""
    return "\n".join([INSTRUCTION, *(tool.signature for tool in tools())])


def suite_digest() -> str:
    """SHA-256 over everything a score of the suite depends on."""
    return hashlib.sha256((system_prompt() + read_suite_file(TOOLS) + read_suite_file(REQUESTS)).encode()).hexdigest()


def order(text: str) -> str:
    """A fixed shuffle: texts sorted by this are mixed, and the same everywhere."""
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def options(request: Request) -> tuple[str, ...]:
    """The calls among which a model has to find the right one, which comes first.

    The wrong ones are right calls of other requests: of the same tool where there is another, of the same category,
    and of other categories.
    """
    category = {tool.name: tool.category for tool in tools()}
    right = tool_of(request.call)
    others = sorted({each.call for each in requests()} - {request.call}, key=lambda call: order(request.id + call))
    same_tool = [call for call in others if tool_of(call) == right]
    near = [call for call in others if tool_of(call) != right and category[tool_of(call)] == category[right]]
    far = [call for call in others if category[tool_of(call)] != category[right]]
    chosen = same_tool[:SAME_TOOL]
    chosen += near[: SAME_CATEGORY + SAME_TOOL - len(chosen)]
    return (request.call, *chosen, *far[: SAME_TOOL + SAME_CATEGORY + OTHERS - len(chosen)])


def tool_of(call: str) -> str:
    """The name of the tool that a call's text calls."""
    return str(json.loads(call)["name"])
