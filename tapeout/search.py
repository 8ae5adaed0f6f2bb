"""`precision=auto`: build, measure and judge recipes one after the other until the smallest that passes is found.

What is tried next is `quantize.search`'s to say, from what was measured so far; results come from the store where they
are in it, so an interrupted search goes on where it stopped and a second one only reads.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from export.model import ModelFacts
from quantize.candidates import Candidate, list_candidates
from quantize.search import Goal, Outcome, explain, front, next_candidate, shortfall, winner
from quantize.sensitivity import Sensitivity
from tapeout.executor import Done, Executor, Watcher
from tapeout.jobs import AUTO, CandidateJobs, Job, Plan, Request, make_plan
from tapeout.results import value_of
from tapeout.store import Store
from targets.errors import DeviceMissing, StageFailed, TimedOut, UsageError, WorkerLost
from targets.legality import check_recipe, precision_of
from targets.status import Verdict
from targets.target import Device, Target
from validate.judge import judge, verdict_of
from validate.package_measurement import Measurement
from validate.search_report import SearchReport, Tried

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


def search(request: Request, store: Store, watcher: Watcher) -> Searched:
    """Find recipes for every device; a request for anything but `auto` comes back as it is.

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
    reports = []
    for device in request.target.devices:
        candidates = candidates_for(device, facts, sensitivity, request)
        if any(runtime.status is not None for runtime in device.runtimes):
            refuse_none(candidates, device, request)
            request, report = search_device(request, device, candidates, sensitivity, Run(store, once))
            reports.append(report)
    return Searched(request, tuple(reports), once)


@dataclass(frozen=True)
class Run:
    """Where candidates are built."""

    store: Store
    watcher: Watcher


def candidates_for(
    device: Device, facts: ModelFacts, sensitivity: Sensitivity, request: Request
) -> tuple[Candidate, ...]:
    """Recipes that every buildable runtime of the device takes: the same weights for all of them."""
    tables = [runtime.legality for runtime in device.runtimes if runtime.status is not None]
    if not tables:
        return ()
    found = list_candidates(facts, sensitivity, tables[0], request.weight_bytes_max)
    return tuple(one for one in found if all(is_legal(one.recipe, table) for table in tables))


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


def is_legal(recipe: str, table: str) -> bool:
    """Whether a device takes a recipe."""
    try:
        check_recipe(recipe, table)
    except UsageError:
        return False
    return True


def search_device(
    request: Request, device: Device, candidates: tuple[Candidate, ...], sensitivity: Sensitivity, run: Run
) -> tuple[Request, SearchReport]:
    """Try recipes on one device until the search has nothing better to try."""
    goal = Goal(request.target.gates[INT4].kl_mean_max, request.time_budget_s)
    outcomes: list[Outcome] = []
    while (choice := next_candidate(candidates, outcomes, goal)) is not None:
        outcomes.append(try_recipe(request, device, choice, run))
    tried = sorted(outcomes, key=lambda outcome: outcome.weight_bytes)
    found = {**(request.found or {}), device.name: tuple(outcome.recipe for outcome in tried)}
    report = make_report(device, candidates, outcomes, sensitivity, goal)
    return dataclasses.replace(request, found=found), report


def try_recipe(request: Request, device: Device, choice: Candidate, run: Run) -> Outcome:
    """Build and measure one recipe for every runtime of the device; one that cannot be built has failed."""
    only = dataclasses.replace(request, found={device.name: (choice.recipe,)})
    plan = make_plan(only)
    try:
        done, failed = Executor(run.store, run.watcher).run(plan)
    except (StageFailed, TimedOut, WorkerLost, DeviceMissing):
        return Outcome(choice.recipe, choice.weight_bytes, math.inf, passed=False, tpot_ms=None, seconds=0.0)
    finished = [each for each in plan.candidates if each.measure in done]
    measured = [measurement_of(each.measure, done, run.store) for each in finished]
    verdicts = [judge_candidate(each, one, done, request.target) for each, one in zip(finished, measured, strict=True)]
    jobs = {job for each in plan.candidates for job in (each.measure, each.compile, each.compile.inputs["quantized"])}
    fidelity = [found.fidelity["weights"] for found in measured if "weights" in found.fidelity]
    gates = request.target.gates[INT4]
    short = [shortfall(one.kl_mean, one.top1, one.perplexity_ratio, gates) for one in fidelity]
    return Outcome(
        recipe=choice.recipe,
        weight_bytes=quantized_bytes(plan, done, choice),
        kl=max((one.kl_mean for one in fidelity), default=math.inf),
        passed=not failed and bool(verdicts) and Verdict.FAIL not in verdicts,
        tpot_ms=first_tpot(measured),
        shortfall=max(short, default=None),
        seconds=math.fsum(done[job].record.seconds for job in jobs if job in done),  # in whatever order a set has
    )


def judge_candidate(each: CandidateJobs, found: Measurement, done: Mapping[Job, Done], target: Target) -> Verdict:
    """The verdict on one package, without the comparison of runtimes, which is the report's."""
    size = int(done[each.compile].record.value["package_bytes"])
    return verdict_of(judge(found, size, target.gates[precision_of(each.recipe)], None, each.runtime.off_device))


def quantized_bytes(plan: Plan, done: Mapping[Job, Done], choice: Candidate) -> int:
    """Bytes of the weights as they were stored, or as they were foreseen."""
    job = plan.candidates[0].compile.inputs["quantized"]
    return int(done[job].record.value["weight_bytes"]) if job in done else choice.weight_bytes


def first_tpot(measured: Sequence[Measurement]) -> float | None:
    """Median time per output token after the longest prompt, of the first runtime that has one."""
    return next((found.latency[-1].tpot_ms.median for found in measured if found.latency), None)


def measurement_of(job: Job, done: Mapping[Job, Done], store: Store) -> Measurement:
    """What a measure job found."""
    measurement: Measurement = value_of(job, done, store).measurement
    return measurement


def make_report(
    device: Device,
    candidates: tuple[Candidate, ...],
    outcomes: Sequence[Outcome],
    sensitivity: Sensitivity,
    goal: Goal,
) -> SearchReport:
    """What was tried, what won, and why nothing else was tried."""
    chosen = winner(outcomes)
    best = {outcome.recipe for outcome in front(outcomes)}
    explained = explain(candidates, outcomes, sensitivity, goal)
    would_pass = explained.would_pass.recipe if chosen is None and explained.would_pass is not None else None
    return SearchReport(
        device=device.name,
        goal_kl=goal.kl_max,
        candidates=len(candidates),
        tried=tuple(
            Tried(
                recipe=outcome.recipe,
                weight_bytes=outcome.weight_bytes,
                kl=outcome.kl if math.isfinite(outcome.kl) else None,
                tpot_ms=outcome.tpot_ms,
                passed=outcome.passed,
                on_front=outcome.recipe in best,
                seconds=outcome.seconds,
            )
            for outcome in outcomes
        ),
        chosen=chosen.recipe if chosen is not None else None,
        stopped=why_stopped(candidates, outcomes, goal),
        would_pass=would_pass,
    )


def why_stopped(candidates: tuple[Candidate, ...], outcomes: Sequence[Outcome], goal: Goal) -> str:
    """One sentence."""
    unhurried = dataclasses.replace(goal, time_budget_s=math.inf)
    if len(outcomes) >= goal.at_most:
        return f"{goal.at_most} recipes were tried, and that is the limit"
    if next_candidate(candidates, outcomes, unhurried) is not None:
        return f"the next recipe would not end within the time budget of {goal.time_budget_s / 60:.0f} min"
    return "no recipe that is left is expected to be smaller and pass"
