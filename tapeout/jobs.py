"""What a build is made of: the request, its jobs, and the plan that holds them all."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from export.source import Source, parse_source, source_name
from quantize.calibration_plan import CalibrationPlan
from targets.probe import Host
from targets.target import Device, Runtime, Target
from validate.plans import ExperiencePlan, GoldenPlan, LatencyPlan

LADDER = "ladder"
AUTO = "auto"
PRECISIONS = (LADDER, AUTO, "int8", "int4")


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes:
        target: the product.
        source: as typed.
        precision: `ladder` (what the target names), `int8` or `int4` (that part of it), or `auto` (a search).
        host: this machine.
        downloads: folder for fetched files.
        golden: size of the golden set.
        latency: what is timed.
        calibration: how much text calibrated recipes look at.
        suite: the in-vehicle suite is run even where no gate judges it.
        questions: the user's multiple-choice questions, a JSONL file, or None.
        experience: how much of the suites is asked.
        text: the user's own text for them, a JSONL file; None samples from the model.
        time_budget_s: of a search; what was begun is finished.
        weight_bytes_max: of a package's weights in a search, or None.
        baseline: a bundle or a report.json that this build may not be worse than, or None.
        found: recipes by device, smallest first, in place of the target's ladders: what a search has come to.
        prefix: the file of the system prompt and tools that every request begins with, or None.
        sequence: which release of the product the bundle is: a device can refuse one that is older than it asks for.
    """

    target: Target
    source: str
    precision: str
    host: Host
    downloads: str
    golden: GoldenPlan = field(default_factory=GoldenPlan)
    latency: LatencyPlan = field(default_factory=LatencyPlan)
    calibration: CalibrationPlan = field(default_factory=CalibrationPlan)
    suite: bool = False
    questions: str | None = None
    experience: ExperiencePlan = field(default_factory=ExperiencePlan)
    text: str | None = None
    time_budget_s: float = 1800.0
    weight_bytes_max: int | None = None
    baseline: str | None = None
    found: Mapping[str, tuple[str, ...]] | None = None
    prefix: str | None = None
    sequence: int = 0

    @property
    def parsed(self) -> Source:
        """The source, parsed."""
        return parse_source(self.source)

    @property
    def model_name(self) -> str:
        """The model's folder in the bundle."""
        return source_name(self.parsed)


@dataclass(frozen=True, eq=False)
class Job:
    """One stage on given inputs.

    Attributes:
        stage: its name in `pipeline.STAGES`.
        label: what distinguishes it, for people.
        parameters: part of the key.
        inputs: jobs whose values it takes, by name.
        arguments: not part of the key.
    """

    stage: str
    label: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, "Job"] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class CandidateJobs:
    """The jobs of one package: one recipe for one runtime of one device.

    Attributes:
        device: that it is for.
        runtime: that loads it.
        recipe: of its weights.
        compile: makes it.
        screen: compares its weights with the float model; what fails here fails for good.
        measure: finds everything else.
        cache: computes the state of the prefix that requests share; None where nobody asked or the runtime takes none.
    """

    device: Device
    runtime: Runtime
    recipe: str
    compile: Job
    screen: Job
    measure: Job
    cache: Job | None = None


@dataclass(frozen=True)
class Plan:
    """All jobs of a request.

    Attributes:
        model: imports the source.
        hub: exports it.
        golden: measures the reference.
        experience: records the float model where users feel a difference; None when nobody asked for it.
        calibration: makes the text for calibrated recipes.
        sensitivity: finds what each weight costs.
        candidates: in the target's order, recipes from the smallest to the safest.
        wanted: what is run for its own sake beside the candidates.
    """

    model: Job
    hub: Job
    golden: Job
    experience: Job | None
    calibration: Job
    sensitivity: Job
    candidates: tuple[CandidateJobs, ...]
    wanted: tuple[Job, ...] = ()

    def jobs(self) -> list[Job]:
        """Every job once, inputs before those that take them."""
        ordered: dict[int, Job] = {}
        for job in (self.golden, *self.wanted, *(each.measure for each in self.candidates)):
            ordered.update({id(found): found for found in walk(job)})
        return list(ordered.values())


def walk(job: Job) -> Iterator[Job]:
    """A job after everything it takes."""
    for needed in job.inputs.values():
        yield from walk(needed)
    yield job
