"""The in-vehicle suite through the structured output that the shipped runtime itself offers, as a product uses it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from validate.vehicle import tools
from validate.vehicle_calls import CALLS
from validate.vehicle_ranking import RANKING, read_questionnaire

LONGEST_CALL = 96  # tokens, the engine's own line breaks and indents included

Progress = Callable[[int, int], None]


class GuidedPipeline(Protocol):
    """What is asked of a runtime's generation pipeline."""

    def write_json(self, prompt: Sequence[int], schema: str, new_tokens: int) -> str:
        """Greedy text after `prompt` that the runtime's own grammar engine keeps to a JSON Schema."""
        ...


@dataclass(frozen=True)
class GuidedCalls:
    """Calls written under the runtime's own grammar engine.

    Attributes:
        requests: how many were asked.
        valid: share that is a call of a declared tool with exactly its arguments. Below 1 the engine let something else
            pass, or the model spent its tokens on white space, which both engines allow without end.
        tool_agreement: share that calls the same tool as the float model under Tapeout's own grammar.
        examples: (request's id, text) of those that are no call, a few.
    """

    requests: int
    valid: float
    tool_agreement: float
    examples: tuple[tuple[str, str], ...]


EXAMPLES = 5


def calls_schema() -> str:
    """JSON Schema of one call of any declared tool."""
    forms = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": tool.arguments},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools()
    ]
    return json.dumps({"anyOf": forms})


def measure_guided(pipeline: GuidedPipeline, golden: Path, count: int | None, progress: Progress) -> GuidedCalls:
    """Write the calls of the first `count` requests (None: all that the float model wrote) as a product would."""
    reference = json.loads((golden / CALLS).read_text(encoding="utf-8"))
    stored = read_questionnaire(golden / RANKING)
    asked = [question for question in stored.questions if question.id in reference][:count]
    schema, faults, same = calls_schema(), [], 0
    for index, question in enumerate(asked):
        text = pipeline.write_json([*stored.shared, *question.prompt], schema, LONGEST_CALL)
        called = read_call(text)
        if called is None:
            faults.append((question.id, text))
        else:
            same += called["name"] == json.loads(reference[question.id])["name"]
        progress(index + 1, len(asked))
    return GuidedCalls(len(asked), 1 - len(faults) / len(asked), same / len(asked), tuple(faults[:EXAMPLES]))


def read_call(text: str) -> dict[str, Any] | None:
    """The call that a text is, or None: no JSON, no declared tool, or not its arguments."""
    try:
        call = json.loads(text)
    except ValueError:
        return None
    if not isinstance(call, dict) or call.keys() != {"name", "arguments"} or not isinstance(call["arguments"], dict):
        return None
    wanted = {tool.name: set(tool.arguments["properties"]) for tool in tools()}
    return call if wanted.get(call["name"]) == set(call["arguments"]) else None
