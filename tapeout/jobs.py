"""Turn a request (target, model, precision) into jobs: which stage runs on what."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from export.source import Source, parse_source, source_identity, source_name
from targets.errors import UsageError
from targets.legality import precision_of
from targets.names import suggestion
from targets.probe import Host
from targets.target import Device, Runtime, Target
from validate.golden import GoldenPlan, text_digest
from validate.latency import LatencyPlan

PRECISIONS = ("auto", "int8", "int4")


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes:
        target: the product.
        source: as typed.
        precision: `auto` (the smallest scheme that passes), `int8` or `int4`.
        host: this machine.
        downloads: folder for fetched files.
        golden: size of the golden set.
        latency: what is timed.
    """

    target: Target
    source: str
    precision: str
    host: Host
    downloads: str
    golden: GoldenPlan = field(default_factory=GoldenPlan)
    latency: LatencyPlan = field(default_factory=LatencyPlan)

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


@dataclass(frozen=True)
class CandidateJobs:
    """The jobs of one package: one scheme for one runtime of one device."""

    device: Device
    runtime: Runtime
    scheme: str
    compile: Job
    measure: Job


@dataclass(frozen=True)
class Plan:
    """All jobs of a request.

    Attributes:
        model: imports the source.
        hub: exports it.
        golden: measures the reference.
        candidates: in the target's order, schemes from the smallest to the safest.
    """

    model: Job
    hub: Job
    golden: Job
    candidates: tuple[CandidateJobs, ...]

    def jobs(self) -> list[Job]:
        """Every job once, inputs before those that take them."""
        ordered: dict[int, Job] = {}
        for job in (self.golden, *(each.measure for each in self.candidates)):
            ordered.update({id(found): found for found in walk(job)})
        return list(ordered.values())


def walk(job: Job) -> Iterator[Job]:
    """A job after everything it takes."""
    for needed in job.inputs.values():
        yield from walk(needed)
    yield job


def make_plan(request: Request) -> Plan:
    """The jobs of a request.

    Raises:
        UsageError: no scheme of the target has the precision, or there is no such precision.
    """
    source = request.parsed
    identity = {**source_identity(source), "name": source_name(source)}
    model = Job(
        "import",
        request.model_name,
        {"source": identity},
        {},
        {"source": request.source, "downloads": request.downloads},
    )
    hub = Job("export", "", inputs={"model": model})
    golden_parameters = {"plan": dataclasses.asdict(request.golden), "text": text_digest()}
    golden = Job("golden", "", golden_parameters, {"hub": hub})
    return Plan(model, hub, golden, tuple(candidates(request, hub, golden)))


def candidates(request: Request, hub: Job, golden: Job) -> Iterator[CandidateJobs]:
    """One candidate for every buildable runtime and every scheme of its ladder that has the wanted precision."""
    quantized: dict[str, Job] = {}
    compiled: dict[tuple[str, str, str], Job] = {}
    for device in request.target.devices:
        for runtime in device.runtimes:
            if runtime.status is None:
                continue
            for scheme in wanted_schemes(runtime, request.precision):
                quantize = quantized.setdefault(scheme, Job("quantize", scheme, {"scheme": scheme}, {"hub": hub}))
                package = compile_job(scheme, runtime, quantize)
                options = json.dumps(package.parameters["options"], sort_keys=True)
                package = compiled.setdefault((scheme, runtime.backend, options), package)
                plan = dataclasses.replace(request.latency, prompt_lengths=request.target.prompt_lengths)
                parameters = {
                    "backend": runtime.backend,
                    "plan": dataclasses.asdict(plan),
                    "host": identify(request.host),
                    "device": device.name,
                }
                label = f"{scheme} {device.name}-{runtime.backend}"
                measure = Job("measure", label, parameters, {"package": package, "golden": golden})
                yield CandidateJobs(device, runtime, scheme, package, measure)


def compile_job(scheme: str, runtime: Runtime, quantize: Job) -> Job:
    """The job that makes one runtime's package; its options tell apart the generations of a device."""
    label = " ".join((scheme, runtime.backend, *map(str, runtime.options.values())))
    return Job(
        "compile", label, {"backend": runtime.backend, "options": dict(runtime.options)}, {"quantized": quantize}
    )


def wanted_schemes(runtime: Runtime, precision: str) -> tuple[str, ...]:
    """The part of a ladder that has a precision.

    Raises:
        UsageError: none has, or there is no such precision.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision '{precision}'", suggestion(precision, PRECISIONS))
    found = tuple(scheme for scheme in runtime.schemes if precision in ("auto", precision_of(scheme)))
    if not found:
        raise UsageError(
            f"{runtime.backend} has no {precision} scheme in this target", f"its ladder: {', '.join(runtime.schemes)}"
        )
    return found


def identify(host: Host) -> dict[str, Any]:
    """What of a machine makes its figures its own; temperature and governor come with the measurement instead."""
    names = ("architecture", "cpu_model", "cores_logical", "memory_bytes", "instruction_sets", "kernel")
    return {name: list(value) if isinstance(value := getattr(host, name), tuple) else value for name in names}
