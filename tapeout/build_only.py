"""Build packages and measure nothing: for a model whose float reference does not fit this machine.

What was not measured is named, and the verdict is INCOMPLETE: no gate was looked at.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tapeout.durable_files import remove_tree
from tapeout.executor import Done, Executor, Watcher
from tapeout.jobs import CandidateJobs, Job, Plan, Request, walk
from tapeout.planning import make_plan
from tapeout.storage_errors import storage_errors
from tapeout.store import Store
from tapeout.values import plain
from targets.errors import TapeoutError, UsageError
from targets.status import Verdict

# Where the packages go, apart from what was judged, and what says what they are.
FOLDER = "unmeasured"
RECORD = "unmeasured.json"
NOT_MEASURED = ("fidelity to the float model", "answers", "latency", "memory", "placement", "every gate of the target")


@dataclass(frozen=True)
class BuiltPackage:
    """One package that nobody measured.

    Attributes:
        folder: below the record's own.
        device: of the target.
        backend: the runtime that loads it.
        recipe: what its weights were quantized by.
        weights_digest: of the quantized weights, read back from its files.
        checks: what its back end counted.
        package_bytes: size of all files.
    """

    folder: str
    device: str
    backend: str
    recipe: str
    weights_digest: str
    checks: dict[str, int]
    package_bytes: int


@dataclass(frozen=True)
class BuiltStage:
    """What a stage took: wall seconds, and the largest resident size of its process in bytes."""

    name: str
    seconds: float
    peak_bytes: int
    cached: bool


@dataclass(frozen=True)
class Unmeasured:
    """Packages without figures.

    Attributes:
        folder: holds the packages and `unmeasured.json`.
        verdict: INCOMPLETE.
        packages: what was built.
        stages: what that took.
        not_measured: what is missing for a verdict.
        errors: what kept single packages from being made.
    """

    folder: Path
    verdict: Verdict
    packages: tuple[BuiltPackage, ...]
    stages: tuple[BuiltStage, ...]
    not_measured: tuple[str, ...]
    errors: tuple[TapeoutError, ...] = ()

    def as_dictionary(self) -> dict[str, Any]:
        """For JSON."""
        found = asdict(self) | {"folder": str(self.folder), "errors": [error.what for error in self.errors]}
        return dict(plain(found))


def first_rungs(plan: Plan) -> list[CandidateJobs]:
    """The first candidate of every runtime: without figures nothing chooses between the rungs of a ladder."""
    found: dict[tuple[str, str], CandidateJobs] = {}
    for candidate in plan.candidates:
        found.setdefault((candidate.device.name, candidate.runtime.backend), candidate)
    return list(found.values())


def compile_jobs(candidates: list[CandidateJobs]) -> list[Job]:
    """Every job up to the packages, inputs before those that take them."""
    ordered: dict[int, Job] = {}
    for candidate in candidates:
        ordered.update({id(job): job for job in walk(candidate.compile)})
    return list(ordered.values())


def build_only(request: Request, store: Store, out: Path, watcher: Watcher) -> Unmeasured:
    """Compile the smallest package of every runtime and copy it out; those of an earlier call are replaced.

    Raises:
        UsageError: a precision that is found by measuring.
        TapeoutError: a failure that concerns every package, or the last that was left.
    """
    plan = make_plan(request)
    if not plan.candidates:
        raise UsageError(f"precision {request.precision} is found by measuring", "name int4 or int8 with --until")
    folder = out / request.target.name / request.model_name / FOLDER
    done: dict[Job, Done] = {}
    failed: dict[Job, TapeoutError] = {}
    wanted = first_rungs(plan)
    Executor(store, watcher).run_jobs(compile_jobs(wanted), done, failed)
    made = [candidate for candidate in wanted if candidate.compile in done]
    if not made:
        raise next(iter(failed.values()))
    packages = []
    with storage_errors(folder.parent, "free some space, or choose another --out"):
        remove_tree(folder)
        for candidate in made:
            result = done[candidate.compile]
            value, path = result.record.value, f"{candidate.device.name}-{candidate.runtime.backend}-{candidate.recipe}"
            found = store.read(result.record.key)
            if found is not None:
                store.materialise(result.record, found[1], folder / path)
            packages.append(
                BuiltPackage(
                    path,
                    candidate.device.name,
                    candidate.runtime.backend,
                    candidate.recipe,
                    value["weights_digest"],
                    value["checks"],
                    value["package_bytes"],
                )
            )
        stages = tuple(
            BuiltStage(f"{job.stage} {job.label}".strip(), one.record.seconds, one.record.peak_bytes, one.cached)
            for job, one in done.items()
        )
        errors = tuple(dict.fromkeys(failed.values()))
        built = Unmeasured(folder, Verdict.INCOMPLETE, tuple(packages), stages, NOT_MEASURED, errors)
        text = json.dumps({**built.as_dictionary(), "folder": "."}, indent=1, sort_keys=True)
        (folder / RECORD).write_text(text + "\n", encoding="utf-8")
    return built
