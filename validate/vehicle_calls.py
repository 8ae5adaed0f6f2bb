"""The in-vehicle suite by writing: which call does the model write when it may write nothing but a call?"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.hub import OnnxModel, open_hub
from validate.constrained import CallGrammar, Vocabulary, write_call
from validate.paired import Paired, compare_paired
from validate.vehicle import Request, requests, tool_of, tools
from validate.vehicle_ranking import REFRESH, Question, read_questionnaire
from validate.vehicle_session import Branches, HubStepping, Stepping

CALLS = "vehicle_calls.json"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class VehicleCalls:
    """The calls a package writes, beside the float model's.

    Attributes:
        requests: how many were asked.
        agreement: share of requests for which both write the same call.
        tool_agreement: share of requests for which both call the same tool.
        paired: calls that are right to the letter, tool and arguments.
        paired_tool: calls of the right tool, whatever the arguments.
        examples: (request, float model's call, package's call) where they differ, a few.
    """

    requests: int
    agreement: float
    tool_agreement: float
    paired: Paired
    paired_tool: Paired
    examples: tuple[tuple[str, str, str], ...]


EXAMPLES = 5


def golden_calls(hub: OnnxModel, questionnaire: Path, count: int | None, out: Path, progress: Progress) -> Path:
    """Let the float hub write the calls of the first `count` ranked requests (None: all) to `vehicle_calls.json`."""
    session = HubStepping(open_hub(hub))
    written = write_calls_of(session, questionnaire, hub.folder, count, progress)
    path = out / CALLS
    path.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def write_calls_of(
    session: Stepping, questionnaire: Path, folder: Path, count: int | None, progress: Progress
) -> dict[str, str]:
    """The call that a session writes for each of the first `count` requests, by the request's id."""
    from tokenizers import Tokenizer

    stored = read_questionnaire(questionnaire)
    vocabulary = Vocabulary(Tokenizer.from_file(str(folder / "tokenizer.json")))
    grammar = CallGrammar({tool.name: tool.arguments for tool in tools()})
    branches = Branches(session, REFRESH)
    asked: Sequence[Question] = stored.questions[:count]
    written = {}
    for index, question in enumerate(asked):
        branches.start(stored.shared)
        written[question.id] = write_call(branches, question.prompt, grammar, vocabulary)
        progress(index + 1, len(asked))
    return written


def measure_calls(
    session: Stepping, golden: Path, folder: Path, count: int | None, margin: float, progress: Progress
) -> VehicleCalls:
    """Let a package write the first `count` calls that the float model wrote (None: all), and compare.

    Args:
        session: of the package.
        golden: the folder of the golden reference, with `vehicle.json` and `vehicle_calls.json`.
        folder: the package's, for its `tokenizer.json`.
        count: requests asked.
        margin: loss of accuracy the product tolerates.
        progress: called with (done, total).
    """
    reference = json.loads((golden / CALLS).read_text(encoding="utf-8"))
    asked = len(reference) if count is None else min(count, len(reference))
    written = write_calls_of(session, golden / "vehicle.json", folder, asked, progress)
    return compare_calls({name: reference[name] for name in written}, written, margin)


def compare_calls(reference: dict[str, str], written: dict[str, str], margin: float) -> VehicleCalls:
    """Hold a package's calls by request id against the float model's."""
    by_id: dict[str, Request] = {request.id: request for request in requests()}
    ids = list(written)
    right = [by_id[name].call for name in ids]
    ours, theirs = [written[name] for name in ids], [reference[name] for name in ids]
    our_tools, their_tools, right_tools = ([tool_of(call) for call in calls] for calls in (ours, theirs, right))
    differing = [(by_id[name].user, reference[name], written[name]) for name in ids if reference[name] != written[name]]
    return VehicleCalls(
        requests=len(ids),
        agreement=float(np.mean(equal(ours, theirs))),
        tool_agreement=float(np.mean(equal(our_tools, their_tools))),
        paired=compare_paired(equal(theirs, right), equal(ours, right), margin),
        paired_tool=compare_paired(equal(their_tools, right_tools), equal(our_tools, right_tools), margin),
        examples=tuple(differing[:EXAMPLES]),
    )


def equal(ours: Sequence[str], theirs: Sequence[str]) -> list[bool]:
    """Where two sequences hold the same."""
    return [one == other for one, other in zip(ours, theirs, strict=True)]
