"""Turn a request (target, model, precision) into a plan: which stage runs on what."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compile.backends import find_entry
from export.digest import digest_file
from export.remembered_digests import remembered_digests
from export.source import source_identity, source_name
from quantize.recipe import parse_recipe
from tapeout.jobs import AUTO, LADDER, PRECISIONS, CandidateJobs, Job, Plan, Request
from targets.errors import UsageError
from targets.legality import precision_of
from targets.names import suggestion
from targets.probe import Host
from targets.target import Device, Runtime
from validate.golden_text import text_digest
from validate.vehicle import suite_digest

# Process restarts behind a spread that is gated: MLPerf Mobile's five tries.
GATED_RESTARTS = 5

# What a weight is quantized to when its cost is found: the costs are compared with each other.
SENSITIVITY_SCHEME = "w4-asym-g64"


def make_plan(request: Request) -> Plan:
    """The jobs of a request.

    Raises:
        UsageError: no scheme of the target has the precision, or there is no such precision.
    """
    source = request.parsed
    with remembered_digests(Path(request.downloads)) as digest:
        identity = {**source_identity(source, digest), "name": source_name(source)}
    model = Job(
        "import",
        request.model_name,
        {"source": identity},
        {},
        {"source": request.source, "downloads": request.downloads},
    )
    hub = Job("export", "", inputs={"model": model})
    golden_parameters = {"plan": dataclasses.asdict(request.golden), "text": text_digest()}
    calibration_parameters = {
        "plan": dataclasses.asdict(request.calibration),
        "text": digest_file(Path(request.text)) if request.text else None,
    }
    calibration = Job("calibrate", "", calibration_parameters, {"model": model}, {"text": request.text})
    plan = Plan(
        model=model,
        hub=hub,
        golden=Job("golden", "", golden_parameters, with_weights(hub)),
        experience=experience_job(request, hub),
        calibration=calibration,
        sensitivity=Job(
            "sensitivity", "", {"scheme": SENSITIVITY_SCHEME}, {"model": model, "calibration": calibration}
        ),
        candidates=(),
    )
    if request.precision == AUTO:
        plan = dataclasses.replace(plan, wanted=(plan.sensitivity,))
    return dataclasses.replace(plan, candidates=tuple(candidates(request, plan)))


def candidates(request: Request, plan: Plan) -> Iterator[CandidateJobs]:
    """One candidate for every buildable runtime and every wanted recipe."""
    quantized: dict[str, Job] = {}
    ranges: dict[str, Job] = {}
    compiled: dict[tuple[str, str, str], Job] = {}
    caches: dict[Job, Job | None] = {}
    for device in request.target.devices:
        for runtime in device.runtimes:
            if runtime.status is None:
                continue
            for recipe in wanted_recipes(request, device, runtime):
                quantize = quantized.setdefault(recipe, quantize_job(recipe, plan))
                limits = ranges.setdefault(recipe, ranges_job(recipe, quantize, plan))
                package = compile_job(recipe, runtime, {"quantized": quantize, "ranges": limits}, plan)
                options = json.dumps(package.parameters["options"], sort_keys=True)
                package = compiled.setdefault((recipe, runtime.backend, options), package)
                screen = screen_job(request, device, runtime, package, plan)
                cache = caches.setdefault(package, cache_job(request, runtime, package))
                measure = measure_job(request, device, screen, cache, plan)
                yield CandidateJobs(device, runtime, recipe, package, screen, measure, cache)


def experience_job(request: Request, hub: Job) -> Job | None:
    """The job that records the float model in the suites, where they are asked for or a gate judges them."""
    gated = any(gates.needs_experience for gates in request.target.gates.values())
    if not (gated or request.suite or request.questions):
        return None
    parameters = {
        "plan": dataclasses.asdict(request.experience),
        "suite": suite_digest(),
        "questions": digest_file(Path(request.questions)) if request.questions else None,
    }
    return Job("experience", "", parameters, with_weights(hub), {"questions": request.questions})


def with_weights(hub: Job) -> dict[str, Job]:
    """The hub as an input, and the model beside it whose weights its graph points to."""
    return {"hub": hub, **hub.inputs}


def screen_job(request: Request, device: Device, runtime: Runtime, package: Job, plan: Plan) -> Job:
    """The job that compares a package's weights with the float model."""
    recipe = package.inputs["quantized"].parameters["recipe"]
    parameters = {"backend": runtime.backend, "host": identify(request.host)}
    inputs = {"package": package, "golden": plan.golden}
    return Job("screen", f"{recipe} {device.name}-{runtime.backend}", parameters, inputs)


def cache_job(request: Request, runtime: Runtime, package: Job) -> Job | None:
    """The job that computes the state of the prefix; None where nobody asked, or the runtime cannot be given one.

    Raises:
        InputRefused: the file is no prefix.
    """
    if request.prefix is None:
        return None
    from validate.prompt_cache import LOADERS
    from validate.prompt_prefix import read_prefix

    if runtime.backend not in LOADERS:
        return None
    parameters = {"backend": runtime.backend, "prefix": read_prefix(Path(request.prefix)).digest}
    return Job("prefix", package.label, parameters, {"package": package}, {"file": request.prefix})


def measure_job(request: Request, device: Device, screen: Job, cache: Job | None, plan: Plan) -> Job:
    """The job that measures one package for one device of the target."""
    latency = dataclasses.replace(request.latency, prompt_lengths=request.target.prompt_lengths)
    if request.target.gates_spread:
        latency = dataclasses.replace(latency, restarts=max(latency.restarts, GATED_RESTARTS))
    parameters = {
        "backend": screen.parameters["backend"],
        "plan": dataclasses.asdict(latency),
        "host": identify(request.host),
        "device": device.name,
    }
    if request.prefix is not None:
        parameters["prefix"] = True
    inputs = {**screen.inputs, "screened": screen}
    if plan.experience is not None:
        inputs["experience"] = plan.experience
    if cache is not None:
        inputs["cache"] = cache
    return Job("measure", screen.label, parameters, inputs)


def quantize_job(recipe: str, plan: Plan) -> Job:
    """The job that quantizes by one recipe, with what that recipe looks at."""
    parsed = parse_recipe(recipe)
    inputs = with_weights(plan.hub)
    if parsed.calibrated:
        inputs |= {"calibration": plan.calibration}
    if parsed.keep:
        inputs |= {"sensitivity": plan.sensitivity}
    return Job("quantize", recipe, {"recipe": recipe}, inputs)


def ranges_job(recipe: str, quantize: Job, plan: Plan) -> Job:
    """The job that finds what a quantized model's linear layers read and give."""
    return Job("ranges", recipe, inputs={"quantized": quantize, "calibration": plan.calibration})


def compile_job(recipe: str, runtime: Runtime, made: Mapping[str, Job], plan: Plan) -> Job:
    """The job that makes one runtime's package of `made`; its options tell apart the generations of a device.

    Raises:
        UsageError: no such back end, or one that refuses the options or the recipe: before any work.
    """
    entry = find_entry(runtime.backend)
    entry.check(runtime.options, recipe)
    label = " ".join((recipe, runtime.backend, *map(str, runtime.options.values())))
    offered = {**made, "model": plan.model, "calibration": plan.calibration}
    inputs = {name: offered[name] for name in ("quantized", *entry.needs(runtime.options))}
    return Job("compile", label, {"backend": runtime.backend, "options": dict(runtime.options)}, inputs)


def wanted_recipes(request: Request, device: Device, runtime: Runtime) -> tuple[str, ...]:
    """The recipes a runtime's packages are made by: what a search found, or the part of the ladder that is wanted.

    Raises:
        UsageError: the ladder has none of that precision, or there is no such precision.
    """
    precision = request.precision
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision '{precision}'", suggestion(precision, PRECISIONS))
    if precision == AUTO:
        return (request.found or {}).get(device.name, ())
    found = tuple(recipe for recipe in runtime.schemes if precision in (LADDER, precision_of(recipe)))
    if not found:
        raise UsageError(
            f"{runtime.backend} has no {precision} scheme in this target", f"its ladder: {', '.join(runtime.schemes)}"
        )
    return found


def identify(host: Host) -> dict[str, Any]:
    """What of a machine makes its figures its own; temperature and governor come with the measurement instead."""
    names = ("architecture", "cpu_model", "cores_logical", "memory_bytes", "instruction_sets", "kernel")
    return {name: list(value) if isinstance(value := getattr(host, name), tuple) else value for name in names}
