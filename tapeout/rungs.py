"""The rungs of a target's ladders: which packages there are, what is known of each, and which are not needed."""

from collections.abc import Iterator, Mapping

from tapeout.executor import Done
from tapeout.jobs import CandidateJobs, Job, Plan, walk
from tapeout.results import value_of
from tapeout.store import Store
from tapeout.trial import first_failure, judge_one, measurement_of
from targets.errors import TapeoutError
from targets.target import Target
from validate.measurement import Fidelity
from validate.package_measurement import Measurement
from validate.runtime import WEIGHTS

Ladder = tuple[CandidateJobs, ...]


def ladders_of(plan: Plan) -> Iterator[Ladder]:
    """The candidates of each runtime of each device, smallest first."""
    named: dict[tuple[str, str], list[CandidateJobs]] = {}
    for each in plan.candidates:
        named.setdefault((each.device.name, each.runtime.backend), []).append(each)
    return map(tuple, named.values())


def name_of(each: CandidateJobs) -> str:
    """A package, for people."""
    return f"{each.recipe} for {each.device.name}-{each.runtime.backend}"


def shares_weights(ours: CandidateJobs, theirs: CandidateJobs) -> bool:
    """Whether they are one device's packages of the same weights in two runtimes."""
    same = (ours.device.name, ours.recipe) == (theirs.device.name, theirs.recipe)
    return same and ours.runtime.backend != theirs.runtime.backend


def known_of(each: CandidateJobs, done: Mapping[Job, Done], store: Store) -> Measurement:
    """What is known of a package: everything, or how far its weights are from the float model."""
    if each.measure in done:
        return measurement_of(each.measure, done, store)
    fidelity: Fidelity | None = value_of(each.screen, done, store).fidelity if each.screen in done else None
    return Measurement(fidelity={WEIGHTS: fidelity} if fidelity is not None else {})


def lost_of(each: CandidateJobs, failed: Mapping[Job, TapeoutError]) -> Job | None:
    """The first stage that could not make a package."""
    return next((job for job in walk(each.measure) if job in failed), None)


def failure_of(each: CandidateJobs, done: Mapping[Job, Done], store: Store, target: Target) -> str:
    """Why a package fails its gates by what is known of it; empty when it does not."""
    return first_failure(judge_one(each, known_of(each, done, store), done, target))


def unneeded(target: Target, plan: Plan, done: Mapping[Job, Done], store: Store) -> dict[Job, str]:
    """Jobs that a build with these results does not get to, each with the reason."""
    known = {each: failure_of(each, done, store, target) for each in plan.candidates if each.screen in done}
    reasons: dict[Job, str] = {}
    tried: list[CandidateJobs] = []
    needed: set[Job] = set()
    for ladder in ladders_of(plan):
        for each, why in judge_rungs(ladder, known, done):
            if why:
                reasons.update(dict.fromkeys(walk(each.measure), why))
            if not why or each in known:
                tried.append(each)
                needed.update(walk(each.screen if why else each.measure))
    for each in plan.candidates:
        if any(shares_weights(each, other) for other in tried):
            needed.update(walk(each.screen))
    return {job: why for job, why in reasons.items() if job not in needed}


def judge_rungs(
    ladder: Ladder, known: Mapping[CandidateJobs, str], done: Mapping[Job, Done]
) -> Iterator[tuple[CandidateJobs, str]]:
    """Each rung with the reason why it need not be measured, empty where it is.

    Args:
        ladder: of one runtime.
        known: of the screened packages, why each fails; empty when it does not.
        done: results.
    """
    below = ""
    for each in ladder:
        failure = known.get(each, "")
        if below:
            yield each, below
            continue
        yield each, f"not needed: {failure}" if failure and each is not ladder[-1] else ""
        if each.measure in done and not failure:
            below = f"not needed: {each.recipe} is smaller and does not fail"
        elif not failure:
            below = f"only if {each.recipe} fails"
