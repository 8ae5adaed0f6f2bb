"""Processes that are started while their stage's inputs are made: for what is missing, never for what is stored."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tapeout.child import Ahead, Children
from tapeout.executor import Done, Executor
from tapeout.imported_ahead import AHEAD
from tapeout.jobs import Job
from tapeout.planning import make_plan
from tapeout.store import Store
from targets.errors import InputRefused, TapeoutError
from tests.tiny_build import Heard, request
from tests.tiny_folder import write_folder


class Counted:
    """What `Children.ahead` was asked for, and the processes it gave."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.given: list[Ahead] = []
        real = Children.ahead

        @contextmanager
        def ahead(children: Children, modules: Sequence[str], environment: Mapping[str, str]) -> Iterator[Ahead]:
            with real(children, modules, environment) as found:
                self.asked.append(tuple(modules))
                self.given.append(found)
                yield found

        monkeypatch.setattr(Children, "ahead", ahead)


def run_all(jobs: list[Job], folder: Path, counted: Counted) -> int:
    """Run the jobs; how many processes were started ahead by now."""
    executor = Executor(Store(folder / "store"), Heard())
    done: dict[Job, Done] = {}
    failed: dict[Job, TapeoutError] = {}
    executor.run_jobs(jobs, done, failed)
    assert len(done) == len(jobs)
    assert not failed
    assert not executor.children.running
    return len(counted.asked)


def test_a_process_waits_for_what_is_being_made_and_none_for_what_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, counted = write_folder(tmp_path / "model"), Counted(monkeypatch)
    plan = make_plan(request("cpu", source, "int8"))
    jobs = [job for job in plan.jobs() if job.stage in {"import", "export"}]
    asked = [run_all(jobs, tmp_path, counted) for _ in range(2)]
    assert counted.asked[:1] == [AHEAD["export", ""]]
    assert asked[1] == asked[0]  # nothing is added
    assert [each.child.returncode for each in counted.given] == [0] * len(counted.given)


def test_a_process_whose_input_fails_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, counted = tmp_path / "model.gguf", Counted(monkeypatch)
    source.write_bytes(b"GGUF" + b"\xff" * 45)
    jobs = [job for job in make_plan(request("cpu", source, "int8")).jobs() if job.stage in {"import", "export"}]
    executor = Executor(Store(tmp_path / "store"), Heard())
    with pytest.raises(InputRefused):
        executor.run_jobs(jobs, {}, {})
    assert all(each.child.returncode is not None for each in counted.given)
    assert not executor.children.running
