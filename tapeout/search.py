"""`precision=auto`: build, measure and judge recipes one after the other until the smallest that passes is found.

What is tried next is `quantize.search`'s to say, from what was measured so far; results come from the store where they
are in it, so an interrupted search goes on where it stopped and a second one only reads.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from export.model import ModelFacts
from quantize.candidates import Candidate, list_candidates
from quantize.search import Goal, Outcome, expected_kl, explain, front, next_candidate, winner
from quantize.sensitivity import Sensitivity
from tapeout.executor import Done, Executor, Watcher
from tapeout.jobs import AUTO, Job, Request
from tapeout.planning import make_plan
from tapeout.results import value_of
from tapeout.store import Store
from tapeout.trial import Run, try_recipe
from targets.errors import UsageError
from targets.target import Device
from validate.search_report import Expected, SearchReport, Tried, WeightSensitivity

INT4 = "int4"


@dataclass(frozen=True)
class Searched:
    """A request whose recipes are known.

    Attributes:
        request: with what the search found.
        reports: what was tried, by device.
        watcher: one that does not repeat what the search already said.
    """

    request: Request
    reports: tuple[SearchReport, ...]
    watcher: Watcher


class Once:
    """A watcher that passes each job's end on once, however often a plan comes across its stored result."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.said: set[tuple[str, str]] = set()

    def noted(self, text: str) -> None:
        """What the search says."""
        self.watcher.noted(text)

    def started(self, job: Job, why: str) -> None:
        """A job runs."""
        self.watcher.started(job, why)

    def advanced(self, job: Job, done: int, total: int) -> None:
        """A job is so far."""
        self.watcher.advanced(job, done, total)

    def waiting(self, job: Job) -> None:
        """Another process builds it."""
        self.watcher.waiting(job)

    def finished(self, job: Job, result: Done) -> None:
        """A job has its result."""
        name = (job.stage, job.label)
        if name not in self.said or not result.cached:
            self.watcher.finished(job, result)
        self.said.add(name)


@dataclass(frozen=True)
class Ground:
    """What a search on one device stands on.

    Attributes:
        request: what was asked for.
        device: to search for.
        facts: of the model.
        sensitivity: of its weights.
    """

    request: Request
    device: Device
    facts: ModelFacts
    sensitivity: Sensitivity

    def candidates(self, byte_budget: int | None) -> tuple[Candidate, ...]:
        """Recipes that every buildable runtime of the device takes: the same weights for all of them."""
        tables = tuple(runtime.legality for runtime in self.device.runtimes if runtime.status is not None)
        return list_candidates(self.facts, self.sensitivity, tables, byte_budget)


def search(request: Request, store: Store, watcher: Watcher) -> Searched:
    """Find recipes for every device; a request for anything but `auto` comes back as it is.

    The time budget counts what every stage took when it ran, from the import on, so that a search that was interrupted
    ends where it would have ended.

    Raises:
        TapeoutError: the model, its reference or its sensitivity cannot be had.
    """
    if request.precision != AUTO:
        return Searched(request, (), watcher)
    once = Once(watcher)
    plan = make_plan(request)
    done, _ = Executor(store, once).run(plan)
    facts = value_of(plan.model, done, store)
    sensitivity: Sensitivity = value_of(plan.sensitivity, done, store)
    spent = math.fsum(each.record.seconds for each in done.values())
    reports = []
    for device in request.target.devices:
        if any(runtime.status is not None for runtime in device.runtimes):
            ground = Ground(request, device, facts, sensitivity)
            recipes, report = search_device(ground, spent, Run(store, once))
            request = dataclasses.replace(request, found={**(request.found or {}), device.name: recipes})
            spent += math.fsum(one.seconds for one in report.tried)
            reports.append(report)
    return Searched(request, tuple(reports), once)


def refuse_none(candidates: tuple[Candidate, ...], device: Device, request: Request) -> None:
    """Refuse a budget that no recipe of the device fits.

    Raises:
        UsageError: there is no candidate.
    """
    if not candidates:
        budget = f" of at most {request.weight_bytes_max / 1e6:g} MB" if request.weight_bytes_max else ""
        raise UsageError(
            f"no recipe that every runtime of {device.name} takes makes weights{budget}",
            "allow more with --max-mb, or build a smaller model",
        )


def search_device(ground: Ground, spent: float, run: Run) -> tuple[tuple[str, ...], SearchReport]:
    """Try recipes on one device until the search has nothing better to try.

    Args:
        ground: what the search stands on.
        spent: seconds of the time budget that are gone.
        run: where candidates are built.

    Returns:
        The recipes that belong into the bundle, smallest first: those that were measured whole, or where there is none
        the one that came nearest.
    """
    request, device = ground.request, ground.device
    goal = Goal(request.target.gates[INT4].kl_mean_max, request.time_budget_s, spent_s=spent)
    candidates = ground.candidates(request.weight_bytes_max)
    refuse_none(candidates, device, request)
    outcomes: list[Outcome] = []
    while (choice := next_candidate(candidates, outcomes, goal)) is not None:
        expected = expected_kl(choice, candidates, {one.recipe: one for one in outcomes})
        run.watcher.noted(foretell(device.name, choice, expected, goal))
        outcomes.append(try_recipe(request, device.name, choice, run))
        run.watcher.noted(outcomes[-1].summary)
    report = make_report(ground, candidates, outcomes, goal)
    run.watcher.noted(f"search on {device.name} ended: {report.stopped}")
    tried = sorted(outcomes, key=lambda outcome: outcome.weight_bytes)
    whole = tuple(outcome.recipe for outcome in tried if outcome.whole)
    return whole or (min(tried, key=lambda outcome: outcome.kl).recipe,), report


def foretell(device: str, choice: Candidate, expected: float, goal: Goal) -> str:
    """What is tried next, in one line."""
    return (
        f"search on {device}: trying {choice.recipe}, {choice.weight_bytes / 1e6:.1f} MB of weights,"
        f" KL {expected:.3g} expected, at most {goal.kl_max:g} is allowed"
    )


def make_report(
    ground: Ground, candidates: tuple[Candidate, ...], outcomes: Sequence[Outcome], goal: Goal
) -> SearchReport:
    """What was tried, what won, and why nothing else was tried; without a winner what stands in the way."""
    chosen = winner(outcomes)
    best = {outcome.recipe for outcome in front(outcomes)}
    report = SearchReport(
        device=ground.device.name,
        goal_kl=goal.kl_max,
        candidates=len(candidates),
        tried=tuple(tried_of(outcome, on_front=outcome.recipe in best) for outcome in outcomes),
        chosen=chosen.recipe if chosen is not None else None,
        stopped=why_stopped(candidates, outcomes, goal),
        weight_bytes_max=ground.request.weight_bytes_max,
    )
    if chosen is not None:
        return report
    known = {one.recipe: one for one in (*ground.candidates(None), *candidates)}
    found = explain(tuple(known.values()), outcomes, ground.sensitivity, goal)
    one = found.would_pass
    expected = Expected(one.recipe, one.weight_bytes, found.expected_kl or 0.0) if one is not None else None
    guilty = tuple(WeightSensitivity(cost.name, cost.layer, cost.projection, cost.kl) for cost in found.guilty)
    nearest = found.nearest.recipe if found.nearest is not None else None
    return dataclasses.replace(report, nearest=nearest, guilty=guilty, would_pass=expected)


def tried_of(outcome: Outcome, on_front: bool) -> Tried:
    """An outcome as the report has it."""
    return Tried(
        recipe=outcome.recipe,
        weight_bytes=outcome.weight_bytes,
        kl=outcome.kl if math.isfinite(outcome.kl) else None,
        tpot_ms=outcome.tpot_ms,
        passed=outcome.passed,
        on_front=on_front,
        seconds=outcome.seconds,
        reason=outcome.reason,
    )


def why_stopped(candidates: tuple[Candidate, ...], outcomes: Sequence[Outcome], goal: Goal) -> str:
    """One sentence."""
    unhurried = dataclasses.replace(goal, time_budget_s=math.inf)
    if len(outcomes) >= goal.at_most:
        return f"{goal.at_most} recipes were tried, and that is the limit"
    if next_candidate(candidates, outcomes, unhurried) is not None:
        return f"the next recipe would not end within the time budget of {goal.time_budget_s / 60:.0f} min"
    return "no recipe that is left is expected to be smaller and pass"
