"""The store killed, or told of a full or failing disk, at every call into the file system."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from tests.crash_operations import NEW, OPERATIONS, Operation, put_naively, rerun_violations, violations
from tests.strace_faults import EIO, ENOSPC, HUNG, KILL, UNTYPED, Fault, list_faults, meet, require_strace
from tests.tiers import CRASH_POINTS

Case = TypeVar("Case")
NAIVE = replace(OPERATIONS["publish"], work=partial(put_naively, NEW))


@pytest.fixture(scope="module", autouse=True)
def strace() -> None:
    require_strace()


class Bench:
    """A prepared folder, copied for every fault."""

    def __init__(self, operation: Operation, folder: Path) -> None:
        self.operation = operation
        self.folder = folder
        self.template = folder / "template"
        self.template.mkdir(parents=True)
        operation.prepare(self.template)
        operation.work(self.copy("warm"))
        self.faults = list_faults(partial(operation.work, self.copy("count")), folder / "trace")

    def copy(self, name: str) -> Path:
        return Path(shutil.copytree(self.template, self.folder / name, symlinks=True))

    def suffer(self, fault: Fault) -> list[str]:
        """What one fault breaks."""
        root = self.copy("work")
        try:
            code = meet(partial(self.operation.work, root), fault)
            wrong = [] if code in allowed(fault) else [f"ended with {code}"]
            wrong += violations(self.operation, root, disk_error=fault.kind == EIO)
            wrong += rerun_violations(self.operation, root)
        except Exception as error:  # noqa: BLE001 - whatever is raised here is what a user would meet
            wrong = [f"{type(error).__name__}: {error}"]
        shutil.rmtree(root)
        return [f"{fault.kind} at {fault.call} {fault.number} ({fault.shown}): {each}" for each in wrong]


def allowed(fault: Fault) -> set[int]:
    """How an operation may end: killed; or well; or with no space, or with damage found."""
    return {KILL: {-9, 0}, EIO: {0, 5, 8}, ENOSPC: {0, 8}}[fault.kind]


MANY = 1000  # faults; fewer would mean that some operation was not traced


def spread(faults: list[Case], count: int) -> list[Case]:
    """`count` of the faults, evenly; all of them where there are fewer."""
    step = max(1.0, len(faults) / count)
    return [faults[int(place * step)] for place in range(min(count, len(faults)))]


@CRASH_POINTS.each
def test_no_fault_at_any_call_harms_the_store(tmp_path: Path, size: int) -> None:
    benches = [Bench(operation, tmp_path / name) for name, operation in OPERATIONS.items()]
    cases = [(bench, fault) for bench in benches for fault in bench.faults]
    assert len(cases) > MANY
    chosen = spread(cases, size)
    wrong = [each for bench, fault in chosen for each in bench.suffer(fault)]
    print(f"{len(chosen)} of {len(cases)} faults, {len(wrong)} violations")  # noqa: T201 - the figure of the document
    assert not wrong, f"{len(wrong)} in {len(chosen)} faults:\n" + "\n".join(wrong[:40])


def test_the_battery_finds_what_a_naive_writer_does_wrong(tmp_path: Path) -> None:
    bench = Bench(NAIVE, tmp_path / "naive")
    wrong = [each for fault in spread(bench.faults, 40) for each in bench.suffer(fault)]
    print(f"naive writer: {len(wrong)} violations")  # noqa: T201
    assert any("verify finds" in each for each in wrong)


def test_a_fault_is_met(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    faults = list_faults(path.read_text, tmp_path / "trace")
    opened = next(fault for fault in faults if fault.call == "openat")
    assert meet(path.read_text, opened) == -9
    assert meet(path.read_text, replace(opened, kind=EIO)) == UNTYPED
    assert HUNG != UNTYPED
