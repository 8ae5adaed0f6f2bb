"""Say what a build would do: for every job, whether its result is stored, and if not why."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from tapeout.executor import Done, identify, why_missing
from tapeout.jobs import Job, Plan, Request
from tapeout.outcome import recall, skipped_jobs
from tapeout.pipeline import find_stage
from tapeout.stage_key import stage_key
from tapeout.store import Store


@dataclass(frozen=True)
class Foreseen:
    """One job of a plan.

    Attributes:
        stage: its stage.
        label: what distinguishes it.
        hit: its result is stored.
        why: `stored`, why the key is new, or what has to run first.
        key: its key, or None while an input is unknown.
        seconds: how long the stored or the nearest earlier result took, or None.
        needed: False for what a build does not get to, because what is stored already says which package ships.
    """

    stage: str
    label: str
    hit: bool
    why: str
    key: str | None
    seconds: float | None
    needed: bool = True


def foresee(plan: Plan, store: Store, climbed: Request | None = None) -> list[Foreseen]:
    """Every job of the plan, inputs first; nothing is run and no file of a result is read.

    Args:
        plan: with all rungs of all ladders.
        store: where results are.
        climbed: the request whose build will climb the ladders; None when everything in the plan is wanted.
    """
    found, done = look(plan, store)
    if climbed is not None and any(each.screen in done for each in plan.candidates):
        for job, why in not_needed(climbed, plan, done, store).items():
            if not found[job].hit:
                found[job] = dataclasses.replace(found[job], why=why, needed=False)
    return list(found.values())


def look(plan: Plan, store: Store) -> tuple[dict[Job, Foreseen], dict[Job, Done]]:
    """Every job of the plan as it is found, and the results of those that are stored."""
    done: dict[Job, Done] = {}
    return {job: foresee_job(job, done, store) for job in plan.jobs()}, done


def not_needed(request: Request, plan: Plan, done: dict[Job, Done], store: Store) -> Mapping[Job, str]:
    """Jobs that a build with these results does not get to, each with the reason."""
    outcome = recall(request, plan, done, store)
    if outcome is not None:
        return skipped_jobs(plan, outcome)
    from tapeout.rungs import unneeded

    return unneeded(request.target, plan, done, store)


def foresee_job(job: Job, done: dict[Job, Done], store: Store) -> Foreseen:
    """One job; a hit is added to `done`."""
    stage = find_stage(job.stage)
    waiting = [needed for needed in job.inputs.values() if needed not in done]
    if waiting:
        first = " and ".join(f"{needed.stage} {needed.label}".strip() for needed in waiting)
        return Foreseen(job.stage, job.label, False, f"after {first}", None, None)
    identity = identify(stage, job, {name: done[needed] for name, needed in job.inputs.items()})
    key = stage_key(stage.name, **identity)
    record = store.lookup(key)
    if record is None:
        return Foreseen(job.stage, job.label, False, why_missing(store, stage, identity), key, None)
    done[job] = Done(record, cached=True)
    return Foreseen(job.stage, job.label, True, "stored", key, record.seconds)
