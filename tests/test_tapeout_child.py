"""What becomes of a stage that crashes, hangs, lies or says nothing."""

import importlib.util
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from tapeout import child
from tapeout.child import Children, failure, run_child
from tapeout.imported_ahead import AHEAD, imported_ahead
from tapeout.pipeline import STAGES, find_stage
from targets.errors import InputRefused, NoSpace, StageFailed, TapeoutError, TimedOut, WorkerLost

LIMIT_S = 20


def run_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, timeout_s: int = LIMIT_S) -> child.Outcome:
    """Run `body` in the place of `tapeout.stage_process`."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(body))
    start = subprocess.Popen

    def started(command: list[str], **options: object) -> "subprocess.Popen[str]":
        return start([sys.executable, str(script)], **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(subprocess, "Popen", started)
    return run_child({"stage": "compile"}, tmp_path, timeout_s, Children(), lambda done, total: None)


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", WorkerLost, "SIGSEGV"),
        ("import os; os.abort()", WorkerLost, "SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", WorkerLost, "killed"),
        ("raise MemoryError", WorkerLost, "memory"),
        ("raise OSError(28, 'No space left on device')", NoSpace, "disk space"),
        ("import sys; sys.exit('the vendor compiler gave up')", StageFailed, "the vendor compiler gave up"),
        ("pass", StageFailed, "said nothing"),
    ],
)
def test_a_child_that_dies_is_a_typed_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, kind: type[TapeoutError], says: str
) -> None:
    with pytest.raises(kind, match=says) as caught:
        run_script(tmp_path, monkeypatch, body)
    assert caught.value.help


def test_a_child_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = time.monotonic()
    with pytest.raises(TimedOut, match="time limit"):
        run_script(tmp_path, monkeypatch, "import time; time.sleep(60)", timeout_s=1)
    assert time.monotonic() - start < LIMIT_S


def test_grandchildren_go_with_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = f"""
    import json, subprocess, sys
    grandchild = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
    open({str(tmp_path / "pid")!r}, "w").write(str(grandchild.pid))
    print(json.dumps({{"value": {{"answer": 42}}, "peak_bytes": 23456789}}), flush=True)
    """
    outcome = run_script(tmp_path, monkeypatch, body)
    assert outcome.value == {"answer": 42}
    assert outcome.peak_bytes == 23456789
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and alive(pid):
        time.sleep(0.05)
    assert not alive(pid)


def alive(pid: int) -> bool:
    """Whether a process runs; one that is only waiting to be reaped does not."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_what_a_stage_raises_arrives_as_it_was() -> None:
    answer = {"error": {"type": "InputRefused", "what": "a pickle", "help": "convert it"}}
    error = failure("import", answer, 0, "", late=False)
    assert isinstance(error, InputRefused)
    assert (error.what, error.help, error.exit_code) == ("a pickle", "convert it", 4)


def test_stopping_ends_running_children_and_starts_no_more(tmp_path: Path) -> None:
    children = Children()
    seen: list[BaseException | None] = []

    def wait() -> None:
        with (tmp_path / "log").open("w") as log, children.started([sys.executable, "-c", SLEEP], log) as running:
            running.wait(LIMIT_S)
            seen.append(None)

    thread = threading.Thread(target=wait)
    thread.start()
    while not children.running:
        time.sleep(0.01)
    children.stop()
    thread.join(LIMIT_S)
    assert seen == [None]
    with (tmp_path / "log").open("w") as log, pytest.raises(KeyboardInterrupt), children.started(["true"], log):
        pass


SLEEP = "import time; time.sleep(60)"


def test_the_real_child_refuses_a_broken_source(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    source = tmp_path / "model.gguf"
    source.write_bytes(b"GGUF" + b"\xff" * 45)
    job = {
        "stage": "import",
        "inputs": {},
        "parameters": {},
        "arguments": {"source": str(source), "downloads": str(tmp_path / "downloads")},
        "out": str(out),
    }
    with pytest.raises(InputRefused):
        run_child(job, tmp_path, LIMIT_S, Children(), lambda done, total: None)


def broken_import(tmp_path: Path) -> dict[str, object]:
    """A job that the real child refuses."""
    (tmp_path / "out").mkdir()
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + b"\xff" * 45)
    arguments = {"source": str(tmp_path / "model.gguf"), "downloads": str(tmp_path / "downloads")}
    return {
        "stage": "import",
        "inputs": {},
        "parameters": {},
        "arguments": arguments,
        "out": str(tmp_path / "out"),
    }


@pytest.mark.parametrize("modules", [("export.model",), ("no_such_library", "export.model")])
def test_a_child_that_was_started_ahead_does_its_job(tmp_path: Path, modules: tuple[str, ...]) -> None:
    children, scratch = Children(), tmp_path / "a\nfolder"
    scratch.mkdir()
    job = broken_import(scratch)
    with children.ahead(modules, {}) as ahead:
        with pytest.raises(InputRefused):
            run_child(job, scratch, LIMIT_S, children, lambda done, total: None, ahead)
        assert not children.running
        assert ahead.child.returncode == 0


def test_a_child_that_nobody_needs_is_gone(tmp_path: Path) -> None:
    children = Children()
    with children.ahead((), {}) as ahead:
        assert alive(ahead.child.pid)
    assert not alive(ahead.child.pid)
    assert not children.running


def test_a_child_that_dies_before_its_job_is_a_typed_failure(tmp_path: Path) -> None:
    (tmp_path / "crashes.py").write_text("import os, sys; print('lost', file=sys.stderr, flush=True); os.abort()")
    children = Children()
    with children.ahead(("crashes",), {"PYTHONPATH": str(tmp_path)}) as ahead:
        ahead.child.wait(LIMIT_S)
        with pytest.raises(WorkerLost, match="died of SIGABRT: lost"):
            run_child(broken_import(tmp_path), tmp_path, LIMIT_S, children, lambda done, total: None, ahead)


def test_a_child_that_was_started_ahead_has_the_time_of_its_job(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time; time.sleep(60)")
    children, start = Children(), time.monotonic()
    with children.ahead(("slow",), {"PYTHONPATH": str(tmp_path)}) as ahead, pytest.raises(TimedOut):
        run_child(broken_import(tmp_path), tmp_path, 1, children, lambda done, total: None, ahead)
    assert time.monotonic() - start < LIMIT_S


def test_stopping_ends_a_child_that_waits_for_its_job(tmp_path: Path) -> None:
    children = Children()
    with children.ahead((), {}) as ahead:
        children.stop()
        with pytest.raises(KeyboardInterrupt):
            run_child(broken_import(tmp_path), tmp_path, LIMIT_S, children, lambda done, total: None, ahead)
    with pytest.raises(KeyboardInterrupt), children.ahead((), {}):
        pass


def test_what_is_imported_ahead_exists() -> None:
    for (stage, backend), modules in AHEAD.items():
        assert find_stage(stage).exclusive is False
        assert imported_ahead(stage, {"backend": backend} if backend else {}) == modules
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        assert not missing
    assert imported_ahead("compile", {"backend": "null"}) == imported_ahead("measure", {"backend": "openvino"}) == ()


def test_only_the_import_may_reach_a_hub() -> None:
    offline = {stage.name: stage.environment.get("HF_HUB_OFFLINE") for stage in STAGES}
    assert offline.pop("import") is None
    assert set(offline.values()) == {"1"}
    assert "HF_HUB_OFFLINE" not in child.ENVIRONMENT


def test_a_stage_ends_with_a_build_that_is_killed(tmp_path: Path) -> None:
    """Its session is its own: no signal to the build's process group would reach it."""
    ready = tmp_path / "ready"
    stage = (
        "import pathlib, time; from tapeout.stage_process import end_with_parent; end_with_parent();"
        f"pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
    )
    body = (
        "import subprocess, sys, time\n"
        f"stage = subprocess.Popen([sys.executable, '-c', {stage!r}], start_new_session=True)\n"
        "print(stage.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    build = subprocess.Popen([sys.executable, "-c", body], stdout=subprocess.PIPE, text=True)
    assert build.stdout is not None
    pid = int(build.stdout.readline())
    deadline = time.monotonic() + LIMIT_S
    while not ready.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive(pid)
    build.kill()
    build.wait(LIMIT_S)
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)
