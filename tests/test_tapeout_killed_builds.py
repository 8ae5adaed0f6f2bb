"""Whole builds killed, terminated and interrupted at any time: the next one ends as if nothing had happened."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tapeout.store import Store
from tapeout.store_care import gc, verify
from tests.tiers import INTERRUPTED_BUILDS, KILLED_BUILDS
from tests.tiny_folder import write_folder

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 600


def start(folder: Path) -> "subprocess.Popen[bytes]":
    """`tapeout build null` in `folder`, in a process group of its own that heeds Ctrl-C."""
    command = [sys.executable, "-m", "tests.tiny_cli", "build", "null", "--model", str(folder / "model")]
    with (folder / "said").open("ab") as said:
        return subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TAPEOUT_STORE": str(folder / "store")},
            stdout=said,
            stderr=said,
            start_new_session=True,
            preexec_fn=heed_interrupts,  # noqa: PLW1509 - as in test_tapeout_cli
        )


def heed_interrupts() -> None:
    """A background job inherits that Ctrl-C is ignored; a person's terminal is meant here."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def kill_group(child: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait(LIMIT_S)


def orphans(folder: Path) -> list[int]:
    """Processes of a build in `folder` that outlived it; they are given a moment to go."""
    deadline = time.monotonic() + 20
    while True:
        left = [process.pid for process in psutil.process_iter() if belongs(process, folder)]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)


def belongs(process: psutil.Process, folder: Path) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        if process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
            return str(folder) in " ".join(process.cmdline())
    return False


def results(folder: Path) -> dict[str, str]:
    """The object of every key: what was built, times and logs aside. Measuring has its own clock in its value only."""
    return {record.key: record.object for record in Store(folder / "store").records()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], float]:
    """A model, what building it gives, and how long that takes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_folder(folder / "model", num_hidden_layers=1, max_position_embeddings=128)
    begun = time.monotonic()
    child = start(folder)
    assert child.wait(LIMIT_S) == 0, (folder / "said").read_text()
    return folder, results(folder), time.monotonic() - begun


def begin(whole: Path, folder: Path, rng: random.Random) -> None:
    """The model in a new folder of the same name, and some of what was built of it."""
    shutil.copytree(whole / "model", folder / "model")
    shutil.copytree(whole / "store", folder / "store")
    forget(folder, rng)


def forget(folder: Path, rng: random.Random) -> None:
    """Remove some finished stages, so that the next build has something to do at every place of the pipeline."""
    store = Store(folder / "store")
    for record in list(store.records()):
        if record.stage not in {"import", "export"} or rng.random() < 0.1:
            store.record_path(record.key).unlink()


@KILLED_BUILDS.each
@pytest.mark.timeout(7200)
def test_builds_killed_at_any_time_end_like_one_that_was_not(
    undisturbed: tuple[Path, dict[str, str], float], tmp_path: Path, size: int
) -> None:
    whole, wanted, seconds = undisturbed
    rng = random.Random(size)  # noqa: S311 - the same times in each run
    begin(whole, tmp_path, rng)
    reached = 0
    for kill in range(size):
        child = start(tmp_path)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(rng.uniform(0.2, seconds / 2))
        reached += child.returncode == 0
        kill_group(child)
        store = Store(tmp_path / "store")
        assert verify(store).clean, f"after kill {kill}"
        assert orphans(tmp_path) == [], f"after kill {kill}"
        assert results(tmp_path).items() <= wanted.items()
        if child.returncode == 0:
            forget(tmp_path, rng)
    child = start(tmp_path)
    assert child.wait(LIMIT_S) == 0, (tmp_path / "said").read_text()
    assert results(tmp_path) == wanted
    store = Store(tmp_path / "store")
    assert verify(store).clean
    gc(store, store.keys(), 0)
    assert list(store.tmp.iterdir()) == []
    print(f"{size} kills, {reached} builds had ended, whole build {seconds:.1f} s")  # noqa: T201


def await_stage(folder: Path) -> None:
    """Wait until the last build in `folder` has begun a stage: before, Python itself answers a signal."""
    deadline = time.monotonic() + LIMIT_S
    while b"run   " not in (folder / "said").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)


SIGNALS = (
    ("Ctrl-C twice", [signal.SIGINT, signal.SIGINT], 130),
    ("SIGTERM", [signal.SIGTERM], 143),
    ("Ctrl-C", [signal.SIGINT], 130),
)


@INTERRUPTED_BUILDS.each
@pytest.mark.timeout(3600)
def test_builds_that_are_told_to_stop_leave_nothing_behind(
    undisturbed: tuple[Path, dict[str, str], float], tmp_path: Path, size: int
) -> None:
    whole, wanted, seconds = undisturbed
    rng = random.Random(3)  # noqa: S311
    begin(whole, tmp_path, rng)
    for turn in range(size):
        name, signals, code = SIGNALS[turn % len(SIGNALS)]
        forget(tmp_path, rng)
        (tmp_path / "said").write_bytes(b"")
        child = start(tmp_path)
        await_stage(tmp_path)
        time.sleep(rng.uniform(0, seconds / 8))
        for number in signals:
            os.killpg(child.pid, number)
            time.sleep(0.05)
        assert child.wait(60) in {code, 0}, f"{name}: {(tmp_path / 'said').read_text()[-2000:]}"
        assert orphans(tmp_path) == [], name
        store = Store(tmp_path / "store")
        assert verify(store).clean, name
        assert not store.tmp.exists() or list(store.tmp.iterdir()) == [], name
        assert results(tmp_path).items() <= wanted.items()
