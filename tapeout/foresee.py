"""Say what a build would do: for every job, whether its result is stored, and if not why."""

from dataclasses import dataclass

from tapeout.executor import Done, identify, why_missing
from tapeout.jobs import Job, Plan
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
    """

    stage: str
    label: str
    hit: bool
    why: str
    key: str | None
    seconds: float | None


def foresee(plan: Plan, store: Store) -> list[Foreseen]:
    """Every job of the plan, inputs first; nothing is run and no file of a result is read."""
    done: dict[Job, Done] = {}
    return [foresee_job(job, done, store) for job in plan.jobs()]


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
