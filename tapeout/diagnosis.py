"""Where every package of a runtime fails for its numbers, find the weights that are to blame."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from quantize.diagnose import Diagnosed
from tapeout.executor import Done, Executor
from tapeout.jobs import CandidateJobs, Job, Plan
from tapeout.planning import with_weights
from tapeout.results import value_of
from targets.errors import TapeoutError
from targets.status import Verdict
from validate.report import Candidate, DeviceReport
from validate.search_report import BlamedWeight, PackageDiagnosis

# What the weights alone decide. A package that misses its gates only as it ships has a runtime to blame, not a weight.
WEIGHTS = "weights."


@dataclass(frozen=True)
class Results:
    """What a plan's jobs came to; diagnoses are added to both."""

    done: dict[Job, Done]
    failed: dict[Job, TapeoutError]


def diagnose_devices(
    devices: Sequence[DeviceReport], plan: Plan, results: Results, executor: Executor
) -> tuple[PackageDiagnosis, ...]:
    """Diagnose the nearest package of every runtime where all fail; nothing is run where one passes."""
    found, jobs = [], dict[Job, Job]()
    for device, backend, candidate in failing(devices):
        quantized = quantize_job_of(plan.candidates, device, backend, candidate.scheme)
        inputs = {**with_weights(plan.hub), "quantized": quantized, "golden": plan.golden}
        job = jobs.setdefault(quantized, Job("diagnose", candidate.scheme, {}, inputs))
        if job not in results.done and job not in results.failed:
            executor.run_alone([job], results.done, results.failed)
        if job in results.done:
            found.append(diagnosis_of(device, backend, value_of(job, results.done, executor.store)))
    return tuple(found)


def failing(devices: Sequence[DeviceReport]) -> Iterator[tuple[str, str, Candidate]]:
    """(device, back end, candidate with the least KL) of every runtime whose candidates all fail on fidelity."""
    from compile.ryzen_ai_options import CHOSEN_BY

    for device in devices:
        for runtime in device.runtimes:
            known = [each for each in runtime.candidates if "weights" in each.measurement.fidelity]
            known = [each for each in known if CHOSEN_BY not in each.requires]  # not the weights of `quantize`
            if known and all(fails_on_fidelity(candidate) for candidate in runtime.candidates):
                nearest = min(known, key=lambda candidate: candidate.measurement.fidelity["weights"].kl_mean)
                yield device.name, runtime.backend, nearest


def fails_on_fidelity(candidate: Candidate) -> bool:
    """Whether some gate that the weights alone decide failed."""
    return any(gate.verdict is Verdict.FAIL and gate.name.startswith(WEIGHTS) for gate in candidate.gates)


def quantize_job_of(candidates: Sequence[CandidateJobs], device: str, backend: str, recipe: str) -> Job:
    """The job that made a candidate's weights."""
    named: Mapping[tuple[str, str, str], CandidateJobs] = {
        (each.device.name, each.runtime.backend, each.recipe): each for each in candidates
    }
    return named[device, backend, recipe].compile.inputs["quantized"]


def diagnosis_of(device: str, backend: str, diagnosed: Diagnosed) -> PackageDiagnosis:
    """A stage's value as the report has it."""
    found = diagnosed.diagnosis
    weights = tuple(BlamedWeight(weight.name, weight.error, weight.kl_restored) for weight in found.weights)
    return PackageDiagnosis(device, backend, diagnosed.recipe, diagnosed.positions, found.kl, found.broken, weights)
