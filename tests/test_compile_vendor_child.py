import sys
import time
from pathlib import Path

import psutil
import pytest

from compile.vendor_child import require_output, run_vendor
from targets.errors import StageFailed, TimedOut

ROOMY = 1 << 30


def run(code: str, log: Path, timeout_s: float = 60, memory_bytes: int = ROOMY, **environment: str) -> None:
    run_vendor(
        [sys.executable, "-c", code],
        what="toy compiler: small graph",
        timeout_s=timeout_s,
        memory_bytes=memory_bytes,
        log=log,
        environment=environment,
    )


def test_a_good_end_keeps_everything_that_was_said(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "compile.txt"
    run("import os, sys; print(os.environ['WISH']); print('warned', file=sys.stderr)", log, WISH="granted")
    assert sorted(log.read_text().split()) == ["granted", "warned"]


def test_a_crash_names_the_stage_the_signal_and_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with pytest.raises(StageFailed, match=r"toy compiler: small graph died of SIGSEGV; it said:\n  before") as caught:
        run("import os, signal; print('before', flush=True); os.kill(os.getpid(), signal.SIGSEGV)", log)
    assert str(log) in caught.value.help


def test_a_signal_without_a_name_is_its_number(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="died of signal 40; it said nothing"):
        run("import os; os.kill(os.getpid(), 40)", tmp_path / "log.txt")


def test_another_code_than_zero_is_a_failure_with_the_last_lines(tmp_path: Path) -> None:
    code = "import sys\nfor i in range(100): print('line', i)\nsys.exit(3)"
    with pytest.raises(StageFailed, match="ended with code 3") as caught:
        run(code, tmp_path / "log.txt")
    assert "line 99" in caught.value.what
    assert "line 50" not in caught.value.what


def test_a_hang_ends_and_takes_its_children_along(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = (
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(child.pid))\n"
        "print('thinking', flush=True)\n"
        "time.sleep(600)\n"
    )
    start = time.monotonic()
    with pytest.raises(TimedOut, match=r"toy compiler: small graph did not end within 2 s; it said:\n  thinking"):
        run(code, tmp_path / "log.txt", timeout_s=2)
    assert time.monotonic() - start < 30
    grandchild = int(pid_file.read_text())
    deadline = time.monotonic() + 10  # what was killed still has to be scheduled once to die
    while runs(grandchild):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def runs(pid: int) -> bool:
    """Whether there is such a process that is not dead; another may end it while we look."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_too_much_memory_is_a_failure(tmp_path: Path) -> None:
    code = "import time\nblock = bytearray(b'x') * (300 << 20)\ntime.sleep(600)"
    with pytest.raises(StageFailed, match=r"took more than 0\.1 GB of memory"):
        run(code, tmp_path / "log.txt", memory_bytes=100_000_000)


def test_the_memory_of_its_children_counts(tmp_path: Path) -> None:
    inner = "block = bytearray(b'x') * (300 << 20); import time; time.sleep(600)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with pytest.raises(StageFailed, match=r"took more than 0\.1 GB of memory"):
        run(code, tmp_path / "log.txt", memory_bytes=100_000_000)


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="toy compiler: cannot start /no/such/compiler"):
        run_vendor(
            ["/no/such/compiler"],
            what="toy compiler",
            timeout_s=5,
            memory_bytes=ROOMY,
            log=tmp_path / "log.txt",
            environment={},
        )


def test_missing_output_is_told_apart_from_an_empty_one_by_nothing(tmp_path: Path) -> None:
    log, good, empty = tmp_path / "log.txt", tmp_path / "good.bin", tmp_path / "empty.bin"
    log.write_text("all went well\n")
    good.write_bytes(b"x")
    empty.touch()
    require_output([good], "toy compiler", log)
    with pytest.raises(StageFailed, match=r"without writing empty\.bin, gone\.bin; it said:\n  all went well"):
        require_output([good, empty, tmp_path / "gone.bin"], "toy compiler", log)
