"""Build a target: run the plan, judge what was measured, write the bundle."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from tapeout.baseline import against, open_report
from tapeout.bundle import Contents, write_bundle
from tapeout.code_version import tool_version
from tapeout.diagnosis import Results, diagnose_devices
from tapeout.documents import gather_evidence
from tapeout.executor import Done, Executor, Watcher
from tapeout.foresee import look
from tapeout.jobs import AUTO, CandidateJobs, Job, Plan, Request
from tapeout.ladder import climb
from tapeout.outcome import Outcome, is_kept, places, remember
from tapeout.planning import make_plan
from tapeout.results import value_of
from tapeout.rungs import known_of, lost_of, unneeded
from tapeout.search import Searched, search
from tapeout.store import Store
from tapeout.values import plain
from targets.errors import IntegrityError, TapeoutError
from targets.target import Target
from validate.assemble import Built, NotBuilt, assemble_devices, headline
from validate.render_terminal import plain_lines
from validate.report import SCHEMA_VERSION, DeviceReport, Failure, Report, StageRecord
from validate.search_report import PackageDiagnosis, WeightSensitivity

if TYPE_CHECKING:
    from tapeout.sign import Signer

# A damaged entry is set aside when it is read; building again then makes it anew.
ATTEMPTS = 3


@dataclass(frozen=True)
class Build:
    """A finished build.

    Attributes:
        report: of the build.
        folder: the bundle.
        written: False when the bundle was already what it should be.
        errors: what kept single packages from being made or measured.
    """

    report: Report
    folder: Path
    written: bool
    errors: tuple[TapeoutError, ...] = ()


def build(request: Request, store: Store, out: Path, watcher: Watcher, signer: "Signer | None" = None) -> Build:
    """Bring the bundle of a request up to date, signed if there is a `signer`.

    Raises:
        TapeoutError: the first failure of a stage; finished stages stay in the store.
    """
    # Read before any work, and before this build's bundle may take the baseline's place.
    baseline = open_report(Path(request.baseline)) if request.baseline else None
    for attempt in range(1, ATTEMPTS + 1):
        try:
            searched = search(request, store, watcher)
            plan = make_plan(searched.request)
            executor = Executor(store, searched.watcher)
            # What a search has found is wanted whole; a ladder only as far up as it has to be climbed.
            auto = request.precision == AUTO
            results = Results(*executor.run(plan)) if auto else climb(request.target, plan, executor)
            devices = judge_devices(request.target, plan, results, store)
            diagnoses = diagnose_devices(devices, plan, results, executor)
            done, failed = results.done, results.failed
            contents = gather(searched, plan, done, Judged(devices, diagnoses), baseline)
            folder = out / request.target.name / request.model_name
            written = write_bundle(contents, store, folder, signer)
            if not failed and is_kept(request):
                _, stored = look(plan, store)
                remember(request, plan, stored, outcome_of(contents, plan, done, store), store)
            return Build(contents.report, folder, written, tuple(dict.fromkeys(failed.values())))
        except IntegrityError:
            if attempt == ATTEMPTS:
                raise
    raise AssertionError


def outcome_of(contents: Contents, plan: Plan, done: Mapping[Job, Done], store: Store) -> Outcome:
    """What is kept of a build for the next one."""
    return Outcome(
        bundle=contents.identity,
        verdict=contents.report.verdict,
        lines=tuple(plain_lines(contents.report)),
        skipped=places(plan, unneeded(contents.target, plan, done, store)),
    )


@dataclass(frozen=True)
class Judged:
    """The devices, and the weights that are to blame where no package passes."""

    devices: tuple[DeviceReport, ...]
    diagnoses: tuple[PackageDiagnosis, ...]


def judge_devices(target: Target, plan: Plan, results: Results, store: Store) -> tuple[DeviceReport, ...]:
    """Judge what was measured, device by device."""
    done, failed = results.done, results.failed
    lost = {each: job for each in plan.candidates if (job := lost_of(each, failed)) is not None}
    known = [built_of(each, done, store) for each in plan.candidates if each not in lost and each.screen in done]
    not_made = [not_built(each, job, failed[job]) for each, job in lost.items()]
    return assemble_devices(target, known, not_made)


def gather(
    searched: Searched, plan: Plan, done: Mapping[Job, Done], judged: Judged, baseline: Report | None
) -> Contents:
    """Judge against the baseline too, and decide what goes into the bundle."""
    request, devices = searched.request, judged.devices
    verdict, sentence = headline(request.target, devices)
    golden = done[plan.golden].record.value
    report = Report(
        schema_version=SCHEMA_VERSION,
        target=request.target.name,
        product=request.target.product,
        model=done[plan.model].record.value,
        verdict=verdict,
        headline=sentence,
        devices=devices,
        assumptions=(
            *request.target.assumptions,
            *assumptions_of(request.target, done[plan.model].record.value),
        ),
        golden={**golden, "prompts": golden["plan"]["prompts"]},
        parity=done[plan.hub].record.value["parity"],
        stages=tuple(stage_record(job, result) for job, result in done.items()),
        searches=searched.reports,
        sensitivity=sensitivity_rows(done.get(plan.sensitivity)),
        requirements=request.target.requirements,
        cost=request.target.cost,
        alternatives=request.target.alternatives,
        layer_costs=layer_costs(done.get(plan.sensitivity)),
        diagnoses=judged.diagnoses,
        tapeout=tool_version("tapeout"),
        created=max(
            (result.record.value["taken"] for job, result in done.items() if job.stage == "measure"), default=""
        ),
    )
    if baseline is not None:
        report = against(report, baseline, request.target)
    return pack(report, request, plan, done)


def pack(report: Report, request: Request, plan: Plan, done: Mapping[Job, Done]) -> Contents:
    """What the bundle holds beside its report: the reference, and the package that each runtime carries."""
    folders, packages = {"golden": done[plan.golden]}, {}
    experience = None
    if plan.experience is not None:
        folders["experience"] = done[plan.experience]
        experience = done[plan.experience].record.value
    for device in report.devices:
        for runtime in device.runtimes:
            if runtime.folder is not None and runtime.carried is not None:
                jobs = find_candidate(plan, device.name, runtime.backend, runtime.carried.scheme)
                folders[runtime.folder] = done[jobs.compile]
                cached = {}
                if jobs.cache is not None:
                    place = f"prompt-cache/{PurePosixPath(runtime.folder).name}"
                    folders[place] = done[jobs.cache]
                    cached = {"prompt_cache": place}
                packages[runtime.folder] = {
                    **cached,
                    "device": device.name,
                    "status": runtime.status,
                    "verdict": runtime.carried.verdict,
                    "recipe": runtime.carried.scheme,
                    "digest": done[jobs.compile].record.object,
                    **done[jobs.compile].record.value,
                }
    golden = done[plan.golden].record.value
    evidence = gather_evidence(request, plan, done, folders)
    return Contents(report, request.target, folders, packages, golden, experience, request.sequence, evidence)


def sensitivity_rows(done: Done | None) -> tuple[WeightSensitivity, ...]:
    """What each weight costs, as the report has it; () when no recipe asked for it."""
    rows = done.record.value["weights"] if done is not None else ()
    return tuple(WeightSensitivity(row["name"], row["layer"], row["projection"], row["kl"]) for row in rows)


def layer_costs(done: Done | None) -> tuple[float, ...]:
    """What each layer as a whole costs; () when no recipe asked for it."""
    return tuple(done.record.value["layers"]) if done is not None else ()


def built_of(candidate: CandidateJobs, done: Mapping[Job, Done], store: Store) -> Built:
    """A candidate's package and figures."""
    package = value_of(candidate.compile, done, store)
    return Built(
        device=candidate.device.name,
        backend=candidate.runtime.backend,
        scheme=candidate.recipe,
        package=package,
        package_digest=done[candidate.compile].record.object,
        measurement=known_of(candidate, done, store),
    )


def not_built(candidate: CandidateJobs, lost: Job, error: TapeoutError) -> NotBuilt:
    """A candidate that the stage `lost` could not make."""
    failure = Failure(candidate.recipe, lost.stage, type(error).__name__, error.what, error.help)
    return NotBuilt(candidate.device.name, candidate.runtime.backend, failure)


def find_candidate(plan: Plan, device: str, backend: str, scheme: str) -> CandidateJobs:
    """The jobs behind a shipped package."""
    return next(
        each
        for each in plan.candidates
        if (each.device.name, each.runtime.backend, each.recipe) == (device, backend, scheme)
    )


def stage_record(job: Job, done: Done) -> StageRecord:
    """A stage as evidence."""
    record = done.record
    return StageRecord(
        name=f"{job.stage} {job.label}".strip(),
        key=record.key,
        output=record.object,
        seconds=record.seconds,
        peak_memory_bytes=record.peak_bytes,
        cached=done.cached,
        tools=dict(record.tools),
    )


def assumptions_of(target: Target, model: Mapping[str, Any]) -> list[str]:
    """What a reader should hold against these figures."""
    found = []
    if any(runtime.status == "host-measured" for device in target.devices for runtime in device.runtimes):
        found.append("Packages marked host-measured ran on the building host: fidelity is real, latency indicative.")
    if model.get("quantized_source"):
        found.append(
            f"The source weights were stored as {model['quantized_source']}: they sit on a grid, and a scheme on the"
            " same grid looks better than it would on full-precision weights."
        )
    return found


def as_dictionary(built: Build) -> dict[str, Any]:
    """The build for `--format json`."""
    return {"bundle": str(built.folder), "written": built.written, "report": plain(dataclasses.asdict(built.report))}
