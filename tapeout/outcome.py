"""What a build came to, kept under all that decides it, so that a build with nothing to do need not judge again.

The key holds the request, the digest of the code that judges and writes bundles, and the digest of every stored result
that the plan can see. Judging is a function of these: the same key means the same report.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tapeout.code_version import code_version, tool_version
from tapeout.executor import Done
from tapeout.jobs import AUTO, Job, Plan, Request
from tapeout.planning import identify
from tapeout.stage_key import Provenance, Record, stage_key
from tapeout.store import Store
from tapeout.values import plain

STAGE = "outcome"
JUDGING = ("tapeout.build",)


@dataclass(frozen=True)
class Outcome:
    """What a build came to.

    Attributes:
        bundle: identity of the bundle that was written.
        verdict: of the whole.
        lines: the summary as it is printed where there is no terminal.
        skipped: jobs that were not needed by their place in the plan, each with the reason.
    """

    bundle: str
    verdict: str
    lines: tuple[str, ...]
    skipped: Mapping[int, str]


def is_kept(request: Request) -> bool:
    """Whether what a build of this comes to is kept: a search has a plan only at its end, a baseline may change."""
    return request.precision != AUTO and request.baseline is None


def recall(request: Request, plan: Plan, done: Mapping[Job, Done], store: Store) -> Outcome | None:
    """What a build with exactly these stored results came to, or None when none was made."""
    if not is_kept(request):
        return None
    record = store.lookup(stage_key(STAGE, **decided_by(request, plan, done)))
    if record is None:
        return None
    value = record.value
    skipped = {int(place): why for place, why in value["skipped"].items()}
    return Outcome(value["bundle"], value["verdict"], tuple(value["lines"]), skipped)


def remember(request: Request, plan: Plan, done: Mapping[Job, Done], found: Outcome, store: Store) -> Record:
    """Keep what a build of a request that `is_kept` came to, under all that is stored of its plan."""
    identity = decided_by(request, plan, done)
    with store.scratch() as scratch:
        folder = scratch / "out"
        folder.mkdir()
        value = plain(dataclasses.asdict(found))
        return store.publish(stage_key(STAGE, **identity), folder, Provenance(stage=STAGE, value=value, **identity))


def decided_by(request: Request, plan: Plan, done: Mapping[Job, Done]) -> dict[str, Any]:
    """All that a build's report and bundle follow from, in the form of a stage's identity."""
    asked = dataclasses.asdict(request)
    del asked["downloads"]
    asked["host"] = identify(request.host)
    return {
        "version": code_version(JUDGING),
        "parameters": plain(asked),
        "inputs": {f"{place} {job.stage}": done[job].digest for place, job in enumerate(plan.jobs()) if job in done},
        "tools": {"tapeout": tool_version("tapeout")},
    }


def places(plan: Plan, reasons: Mapping[Job, str]) -> dict[int, str]:
    """Reasons by the place of each job in its plan."""
    return {place: reasons[job] for place, job in enumerate(plan.jobs()) if job in reasons}


def skipped_jobs(plan: Plan, outcome: Outcome) -> dict[Job, str]:
    """What `places` was given."""
    return {job: outcome.skipped[place] for place, job in enumerate(plan.jobs()) if place in outcome.skipped}
