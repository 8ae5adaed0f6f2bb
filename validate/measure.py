"""Package + golden reference -> Measurement, through the runtime that ships."""

import dataclasses
import datetime
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compile.package import Package
from targets.errors import DeviceMissing, InputRefused
from targets.probe import probe_host
from targets.sensors import read_sensors
from targets.status import Status
from validate.answers import measure_answers
from validate.bandwidth import measure_bandwidth, usable_threads
from validate.experience import Experience, measure_experience
from validate.golden import Golden
from validate.kv_cache import measure_kv_cache
from validate.latency import measure_latency
from validate.load_probe import Asked, measure_restarts
from validate.measurement import Fidelity
from validate.package_measurement import Measurement
from validate.plans import LatencyPlan
from validate.prompt_cache import CANNOT, PromptCache
from validate.prompt_cache_measure import measure_prompt_cache
from validate.roofline import roofline_of
from validate.runtime import DEPLOYED, WEIGHTS, Runtime, find_runtime
from validate.stand_in import measure_stand_in
from validate.steadiness import drift_of, look_around
from validate.windows import deployed_coverage, measure_fidelity, weights_coverage

Progress = Callable[[int, int], None]

ROOM = 16  # tokens of context beyond a prompt and its answer that runtimes ask for
CONTEXT = 12  # characters shown on each side of a tokenizer mismatch

# Shares of the time, for one progress bar over everything.
STEPS = (
    ("weights", 30),
    ("deployed", 20),
    ("answers", 10),
    ("latency", 20),
    ("experience", 5),
    ("kv cache", 5),
    ("prompt cache", 0),
    ("loading", 10),
)


@dataclass(frozen=True)
class Measured:
    """The measurement of one package, as a stage's value.

    Attributes:
        folder: holds nothing but what the store requires; the figures are in `measurement`.
        measurement: the figures.
        taken: ISO 8601 time of the end of the measurement.
    """

    folder: Path
    measurement: Measurement
    taken: str


@dataclass(frozen=True)
class References:
    """What the float model says, and what is known of the package beside it.

    Attributes:
        golden: on the golden text and prompts.
        experience: where users feel a difference; None when the build did not ask for it.
        screened: how far the package's weights are from that, where a build has already measured it here.
        cache: the state of the prefix that requests share; None where nobody asked, or the runtime takes none.
        prefix: a prefix was asked for.
    """

    golden: Golden
    experience: Experience | None = None
    screened: Fidelity | None = None
    cache: PromptCache | None = None
    prefix: bool = False


def measure_package(
    package: Package, references: References, plan: LatencyPlan, out: Path, progress: Progress
) -> Measured:
    """Measure fidelity, answers, latency, loading and placement of `package`.

    A back end without a runtime leaves every figure unmeasured.
    """
    runtime = find_runtime(package.backend)
    (out / "backend").write_text(package.backend + "\n")
    host = {name: jsonable(value) for name, value in dataclasses.asdict(probe_host()).items()}
    before = read_sensors()
    if runtime is None:
        return Measured(out, Measurement(host=host), now())
    if runtime.evidence is None:
        measurement = measure_device(runtime, package, references, plan, progress)
    else:
        measurement = measure_stand_in(runtime, package, references.golden, progress, references.screened)
    conditions = look_around(probe_host().governor, before)
    measurement = dataclasses.replace(measurement, host=host, threads=usable_threads(), conditions=conditions)
    if references.prefix and references.cache is None:
        refused = CANNOT.get(package.backend, "this release has nothing that loads a state into this runtime")
        measurement = dataclasses.replace(measurement, prompt_cache_refused=refused)
    return Measured(out, measurement, now())


def measure_device(
    runtime: Runtime, package: Package, references: References, plan: LatencyPlan, progress: Progress
) -> Measurement:
    """Everything, on the device or one of its kind.

    Raises:
        DeviceMissing: the runtime has no pipeline here, although it says that its device is.
    """
    report = stepper(progress)
    golden, experience = references.golden, references.experience
    fidelity = {} if references.screened is None else {WEIGHTS: references.screened}
    for setting in (DEPLOYED,) if WEIGHTS in fidelity else (WEIGHTS, DEPLOYED):
        session = runtime.session(package.folder, package.settings, setting)
        coverage = weights_coverage(golden) if setting == WEIGHTS else deployed_coverage(golden)
        fidelity[setting] = measure_fidelity(session, golden, coverage, report(setting))
        del session
    kv_cache = measure_kv_cache(runtime, package, golden, report("kv cache"))
    pipeline = runtime.pipeline(package.folder, package.settings)
    if pipeline is None:
        raise DeviceMissing(f"{package.backend} has no generation pipeline here", "measure it on the device")
    spoken = measure_answers(pipeline, package, golden)
    report("answers")(1, 1)
    text = [int(token) for tokens, _ in golden.windows() for token in tokens]
    context = int(package.settings.get("context", package.facts.max_positions))
    plan = plan_that_fits(plan, context)
    latency = measure_latency(pipeline, text, plan, report("latency"))
    felt = None
    if experience is not None:
        session = runtime.session(package.folder, package.settings, DEPLOYED)
        felt = measure_experience(session, pipeline, package, experience, report("experience"))
        del session
    del pipeline
    bandwidth = measure_bandwidth(usable_threads())
    prompt_cache = None
    if references.cache is not None:
        prompt_cache = measure_prompt_cache(runtime, package, references.cache, text, report("prompt cache"))
    asked = Asked(plan.restart_prompt, plan.new_tokens, plan.restart_requests, max(plan.prompt_lengths))
    loading, restarts = measure_restarts(package.backend, package.folder, package.settings, asked, plan.restarts)
    report("loading")(1, 1)
    return dataclasses.replace(
        spoken,
        ran=Status.HOST_MEASURED,
        fidelity=fidelity,
        latency=latency,
        felt=felt,
        kv_cache=kv_cache,
        loading=loading,
        placements=runtime.placement(package.folder, package.settings),
        environment=runtime.versions(),
        drift=drift_of(latency),
        roofline=roofline_of(package, latency, bandwidth),
        restarts=restarts,
        prompt_cache=prompt_cache,
    )


def plan_that_fits(plan: LatencyPlan, max_positions: int) -> LatencyPlan:
    """The plan without prompts that the model's context cannot hold; a gate on one of those stays INCOMPLETE.

    Raises:
        InputRefused: not even the shortest fits.
    """
    fitting = tuple(length for length in plan.prompt_lengths if length + plan.new_tokens + ROOM <= max_positions)
    if not fitting:
        raise InputRefused(
            f"a context of {max_positions} tokens holds no prompt of {min(plan.prompt_lengths)} and an answer",
            "give the target shorter prompt_lengths",
        )
    return dataclasses.replace(plan, prompt_lengths=fitting)


def stepper(progress: Progress) -> Callable[[str], Progress]:
    """For each step of `STEPS`, a progress that fills that step's share of the whole."""

    def within(step: str) -> Progress:
        names = [name for name, _ in STEPS]
        before = sum(share for _, share in STEPS[: names.index(step)])
        share = dict(STEPS)[step]
        return lambda done, total: progress(before + share * done // total, 100)

    return within


def jsonable(value: Any) -> Any:
    """Tuples as lists, so that a value survives a round trip through JSON unchanged."""
    return list(value) if isinstance(value, tuple) else value


def now() -> str:
    """The time, ISO 8601, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
