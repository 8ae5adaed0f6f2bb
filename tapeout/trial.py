"""Try one recipe of a search on one device: screen its weights, and measure everything only where those pass.

A package whose weights alone miss a gate on fidelity, or that is larger than the product allows, fails whatever else is
measured on it: it costs the search no latency, no long context and no second runtime. What passes is measured whole, so
nothing ships with a gate that was not.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantize.candidates import Candidate
from quantize.search import Outcome, shortfall
from tapeout.executor import Done, Executor, Watcher
from tapeout.jobs import CandidateJobs, Job, Plan, Request
from tapeout.planning import make_plan
from tapeout.results import value_of
from tapeout.store import Store
from targets.errors import DeviceMissing, StageFailed, TapeoutError, TimedOut, WorkerLost
from targets.legality import precision_of
from targets.status import Verdict
from targets.target import Target
from validate.judge import judge, verdict_of
from validate.measurement import Fidelity
from validate.package_measurement import Measurement
from validate.report import GateResult
from validate.runtime import WEIGHTS

# Of one recipe alone; anything else ends the search.
ONES_OWN = (StageFailed, TimedOut, WorkerLost, DeviceMissing)


@dataclass(frozen=True)
class Run:
    """Where candidates are built."""

    store: Store
    watcher: Watcher


def try_recipe(request: Request, device: str, choice: Candidate, run: Run) -> Outcome:
    """Build one recipe for every runtime of the device and measure it; one that cannot be built has failed."""
    plan = make_plan(dataclasses.replace(request, found={device: (choice.recipe,)}))
    try:
        refused = screen(request.target, plan, choice, run)
        return refused if refused is not None else measure(request.target, plan, choice, run)
    except ONES_OWN as error:
        return Outcome(
            choice.recipe, choice.weight_bytes, math.inf, False, tpot_ms=None, seconds=0.0, reason=sentence(error)
        )


def screen(target: Target, plan: Plan, choice: Candidate, run: Run) -> Outcome | None:
    """The recipe's failure, where the weights in the device's first runtime show it; None where they pass."""
    each = plan.candidates[0]
    job = each.screen
    done, _ = Executor(run.store, run.watcher).run(dataclasses.replace(plan, candidates=(), wanted=(job,)))
    fidelity: Fidelity | None = value_of(job, done, run.store).fidelity
    if fidelity is None:
        return None
    gates = judge_one(each, Measurement(fidelity={WEIGHTS: fidelity}), done, target)
    if verdict_of(gates) is not Verdict.FAIL:
        return None
    return Outcome(
        recipe=choice.recipe,
        weight_bytes=quantized_bytes(plan, done, choice),
        kl=fidelity.kl_mean,
        passed=False,
        tpot_ms=None,
        shortfall=missing(fidelity, target),
        seconds=seconds_of((job, each.compile, each.compile.inputs["quantized"]), done),
        reason=first_failure(gates),
    )


def measure(target: Target, plan: Plan, choice: Candidate, run: Run) -> Outcome:
    """Everything, in every runtime."""
    done, failed = Executor(run.store, run.watcher).run(plan)
    finished = [each for each in plan.candidates if each.measure in done]
    measured = [measurement_of(each.measure, done, run.store) for each in finished]
    judged = [judge_one(each, one, done, target) for each, one in zip(finished, measured, strict=True)]
    fidelity = [found.fidelity[WEIGHTS] for found in measured if WEIGHTS in found.fidelity]
    failures = [sentence(error) for error in failed.values()]
    failures += filter(None, map(first_failure, judged))
    jobs = [job for each in plan.candidates for job in (each.measure, each.compile, each.compile.inputs["quantized"])]
    return Outcome(
        recipe=choice.recipe,
        weight_bytes=quantized_bytes(plan, done, choice),
        kl=max((one.kl_mean for one in fidelity), default=math.inf),
        passed=bool(judged) and not failures,
        tpot_ms=first_tpot(measured),
        shortfall=max((missing(one, target) for one in fidelity), default=None),
        seconds=seconds_of(jobs, done),
        reason=next(iter(failures), ""),
        whole=True,
    )


def judge_one(
    each: CandidateJobs, found: Measurement, done: Mapping[Job, Done], target: Target
) -> tuple[GateResult, ...]:
    """The gates of one package, without the comparison of runtimes, which is the report's."""
    size = int(done[each.compile].record.value["package_bytes"])
    return judge(found, size, target.gates[precision_of(each.recipe)], None, each.runtime.off_device)


def first_failure(gates: Sequence[GateResult]) -> str:
    """Why a package fails: the first gate, and how many more; empty when none failed."""
    failed = [gate for gate in gates if gate.verdict is Verdict.FAIL]
    if not failed:
        return ""
    return (failed[0].reason or failed[0].name) + (f", and {len(failed) - 1} more" if len(failed) > 1 else "")


def missing(fidelity: Fidelity, target: Target) -> float:
    """By how much 4-bit weights miss the gates on fidelity."""
    return shortfall(fidelity.kl_mean, fidelity.top1, fidelity.perplexity_ratio, target.gates["int4"])


def sentence(error: TapeoutError) -> str:
    """Why a recipe could not be built or measured."""
    return f"{type(error).__name__}: {error.what}"


def seconds_of(jobs: Sequence[Job], done: Mapping[Job, Done]) -> float:
    """What the jobs took when they ran, each counted once."""
    return math.fsum(done[job].record.seconds for job in dict.fromkeys(jobs) if job in done)


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
