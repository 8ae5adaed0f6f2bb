"""Run jobs: look each up in the store, run what is missing in child processes, publish the results."""

import contextlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from export.digest import digest_value
from tapeout.child import Ahead, Children, Outcome, run_child
from tapeout.code_version import code_version, tool_version
from tapeout.disturbance import stage_environment
from tapeout.imported_ahead import imported_ahead
from tapeout.jobs import Job, Plan
from tapeout.pipeline import find_stage
from tapeout.stage import Stage
from tapeout.stage_key import Provenance, Record, explain, nearest_record, stage_key
from tapeout.store import Store
from targets.errors import IntegrityError, NoSpace, TapeoutError, UsageError

# Stages that measure nothing may run side by side; each uses about one core.
PARALLEL_STAGES = 2
# What is in the store is there in this time: no process is started for a stage that has nothing to do.
SOON_S = 0.2

# What every package descends from, and what no other package would escape.
SHARED_STAGES = frozenset({"import", "export", "golden"})
COMMON_ERRORS = (IntegrityError, NoSpace, UsageError)


@dataclass(frozen=True)
class Done:
    """A job's result.

    Attributes:
        record: its entry in the store.
        cached: it was there already.
    """

    record: Record
    cached: bool

    @property
    def digest(self) -> str:
        """What identifies the result as an input: its files and its value."""
        return digest_value({"object": self.record.object, "value": self.record.value})


class Watcher(Protocol):
    """What a build tells whoever watches it."""

    def noted(self, text: str) -> None:
        """What a search found, or is about to try."""
        ...

    def started(self, job: Job, why: str) -> None:
        """A job runs, because `why`."""
        ...

    def advanced(self, job: Job, done: int, total: int) -> None:
        """A job has done `done` of `total`."""
        ...

    def waiting(self, job: Job) -> None:
        """Another process is building the same key."""
        ...

    def finished(self, job: Job, result: Done) -> None:
        """A job has its result."""
        ...


class Executor:
    """Runs the jobs of a plan on this machine."""

    def __init__(self, store: Store, watcher: Watcher) -> None:
        self.store = store
        self.watcher = watcher
        self.children = Children()

    def run(self, plan: Plan) -> tuple[dict[Job, Done], dict[Job, TapeoutError]]:
        """The result of every job, and the error of those that one package's stage could not do.

        Jobs that only compute run side by side; those that measure time run alone, after everything else. One device's
        compiler may crash or be missing: the other packages go on.

        Raises:
            TapeoutError: a failure that concerns every package, or of the last that was left; what had finished stays
                in the store.
        """
        done: dict[Job, Done] = {}
        failed: dict[Job, TapeoutError] = {}
        self.run_jobs(plan.jobs(), done, failed)
        if failed and not any(candidate.measure in done for candidate in plan.candidates):
            raise next(iter(failed.values()))
        return done, failed

    def run_jobs(self, jobs: list[Job], done: dict[Job, Done], failed: dict[Job, TapeoutError]) -> None:
        """Run those of `jobs`, inputs first, that are neither done nor failed; fills both.

        Raises:
            TapeoutError: a failure that concerns every package.
        """
        left = [job for job in jobs if job not in done and job not in failed]
        quiet = [job for job in left if not find_stage(job.stage).exclusive]
        try:
            self.run_side_by_side(quiet, done, failed)
            self.run_alone([job for job in left if job not in quiet], done, failed)
        except BaseException:
            self.children.stop()
            raise

    def run_alone(self, jobs: list[Job], done: dict[Job, Done], failed: dict[Job, TapeoutError]) -> None:
        """Run jobs one after the other; fills `done` and `failed`."""
        for job in jobs:
            lost = next((failed[needed] for needed in job.inputs.values() if needed in failed), None)
            if lost is not None:
                failed[job] = lost
                continue
            try:
                done[job] = self.run_job(job, {name: done[needed] for name, needed in job.inputs.items()})
            except TapeoutError as error:
                failed[job] = spare(job, error)

    def run_side_by_side(self, jobs: list[Job], done: dict[Job, Done], failed: dict[Job, TapeoutError]) -> None:
        """Run jobs as their inputs become ready, a few at a time; fills `done` and `failed`."""
        with ThreadPoolExecutor(PARALLEL_STAGES) as pool:
            known = {job for each in jobs for job in each.inputs.values() if job in done or job in failed}
            futures: dict[Job, Future[Done]] = {job: settled(job, done, failed) for job in known}
            for job in jobs:
                futures[job] = pool.submit(self.run_when_ready, job, {n: futures[j] for n, j in job.inputs.items()})
            try:
                for job in jobs:
                    try:
                        done[job] = futures[job].result()
                    except TapeoutError as error:
                        failed[job] = spare(job, error)
            except BaseException:
                self.children.stop()
                pool.shutdown(cancel_futures=True)
                raise

    def run_when_ready(self, job: Job, inputs: Mapping[str, "Future[Done]"]) -> Done:
        """Wait for the inputs, which were submitted before and so cannot wait for this.

        While one of them is made the stage's process is started, so that it has imported its libraries by then.
        """
        modules = imported_ahead(job.stage, job.parameters)
        with contextlib.ExitStack() as stack:
            ahead = None
            if modules and wait(inputs.values(), SOON_S).not_done:
                with contextlib.suppress(OSError):  # no room for its log, no more processes: the stage itself says so
                    ahead = stack.enter_context(self.children.ahead(modules, environment_of(find_stage(job.stage))))
            return self.run_job(job, {name: future.result() for name, future in inputs.items()}, ahead)

    def run_job(self, job: Job, inputs: Mapping[str, Done], ahead: Ahead | None = None) -> Done:
        """The stored result of `job`, made if it is not there, in the child that was started `ahead` if any."""
        stage = find_stage(job.stage)
        identity = identify(stage, job, inputs)
        key = stage_key(stage.name, **identity)
        record = self.store.lookup(key)
        if record is None:
            with self.store.lock(key, waiting=lambda: self.watcher.waiting(job)):
                record = self.store.lookup(key)
                if record is None:
                    result = Done(self.make(job, inputs, key, ahead), cached=False)
                    self.watcher.finished(job, result)
                    return result
        result = Done(record, cached=True)
        self.watcher.finished(job, result)
        return result

    def make(self, job: Job, inputs: Mapping[str, Done], key: str, ahead: Ahead | None) -> Record:
        """Run the stage in a child and publish what it wrote."""
        stage = find_stage(job.stage)
        identity = identify(stage, job, inputs)
        self.watcher.started(job, why_missing(self.store, stage, identity))
        with self.store.scratch() as scratch:
            out = scratch / "out"
            out.mkdir()
            message = {
                "stage": stage.name,
                "inputs": {name: self.given(job.inputs[name], done) for name, done in inputs.items()},
                "parameters": dict(job.parameters),
                "arguments": dict(job.arguments),
                "environment": environment_of(stage),
                "out": str(out),
            }
            outcome: Outcome = run_child(
                message,
                scratch,
                stage.timeout_s,
                self.children,
                lambda n, total: self.watcher.advanced(job, n, total),
                ahead,
            )
            provenance = Provenance(
                stage=stage.name,
                **identity,
                value=outcome.value,
                seconds=round(outcome.seconds, 3),
                peak_bytes=outcome.peak_bytes,
            )
            return self.store.publish(key, out, provenance)

    def given(self, job: Job, done: Done) -> dict[str, Any]:
        """An input for a child: its files verified, made again if they are damaged."""
        _, folder = self.read(job, done)
        return {"stage": job.stage, "value": done.record.value, "folder": str(folder)}

    def read(self, job: Job, done: Done) -> tuple[Record, Path]:
        """A result's record and verified folder.

        Raises:
            IntegrityError: the files were damaged; they have been set aside.
        """
        found = self.store.read(done.record.key)
        if found is None:
            raise IntegrityError(
                f"the stored result of {job.stage} {job.label} was damaged and has been set aside".replace("  ", " "),
                "run the same command again: it will be built afresh",
            )
        return found


def environment_of(stage: Stage) -> dict[str, str]:
    """What a stage's process gets beside the environment of the build."""
    return {**stage.environment, **stage_environment(stage.exclusive)}


def settled(job: Job, done: Mapping[Job, Done], failed: Mapping[Job, TapeoutError]) -> Future[Done]:
    """What an earlier run came to, as a future."""
    future: Future[Done] = Future()
    if job in failed:
        future.set_exception(failed[job])
    else:
        future.set_result(done[job])
    return future


def spare(job: Job, error: TapeoutError) -> TapeoutError:
    """The error, where it ends no more than one package.

    Raises:
        TapeoutError: the error itself, where it concerns every package.
    """
    if job.stage in SHARED_STAGES or isinstance(error, COMMON_ERRORS):
        raise error
    return error


def identify(stage: Stage, job: Job, inputs: Mapping[str, Done]) -> dict[str, Any]:
    """Everything a key is made of, beside the stage's name."""
    part = stage.part_of(job.parameters)
    return {
        "version": code_version(part.modules),
        "parameters": dict(job.parameters),
        "inputs": {name: done.digest for name, done in inputs.items()},
        "tools": {tool: tool_version(tool) for tool in part.tools} | dict(part.compiler),
    }


def why_missing(store: Store, stage: Stage, identity: Mapping[str, Any]) -> str:
    """One sentence: why there is no result under this key."""
    nearest = nearest_record(list(store.records(stage.name)), **without_version(identity), version=identity["version"])
    return explain(nearest, **without_version(identity), version=identity["version"])


def without_version(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity's parameters, inputs and tools."""
    return {name: value for name, value in identity.items() if name != "version"}
