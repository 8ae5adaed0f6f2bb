"""What a vendor's compiler may do wrong, for every back end that runs one: a typed error, and its log is kept."""

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import compile.npu_compiler
import compile.npu_compiler_wine
import compile.pinned_environment
import compile.qnn_compiler
import compile.quark_load
import tapeout.child
from compile.npu_compiler import compile_blob
from compile.npu_compiler_native import NativeCompiler
from compile.npu_compiler_wine import WineCompiler
from compile.pinned_environment import PinnedEnvironment, install
from compile.qnn_compiler import compile_contexts
from compile.qnn_options import Hexagon
from compile.vendor_child import require_output, run_vendor
from tapeout.child import Children, run_child
from targets.errors import DeviceMissing, StageFailed, TapeoutError, TimedOut, WorkerLost
from tests.tiers import HOSTILE_CHILDREN

SOON_S = 60
STDERR_BYTES = 100 << 20

# What the program in the compiler's place does. `sys.argv[1]` is the file it was to write, where it writes one.
DEEDS = {
    "crashes": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "aborts": "import os; os.abort()",
    "is killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "fails": "import sys; print('no such operator', file=sys.stderr); sys.exit(3)",
    "hangs": "import time; time.sleep(600)",
    "takes all memory": "block = bytearray(b'x') * (900 << 20); import time; time.sleep(600)",
    "writes nothing": "print('all went well')",
    "writes 100 MB of messages": f"""
import os, sys
for _ in range({STDERR_BYTES >> 10}):
    os.write(2, b'E' * 1023 + bytes([10]))
sys.exit(9)
""",
}
SIGNALLED = {"crashes", "aborts", "is killed"}


@dataclass(frozen=True)
class Runner:
    """One place of ours that runs somebody else's program.

    Attributes:
        run: runs the script in that program's place, with files below the folder.
        log: where everything it said is found.
    """

    run: Callable[[Path, Path, pytest.MonkeyPatch], object]
    log: Callable[[Path], Path]


def limited(monkeypatch: pytest.MonkeyPatch, module: object, script: Path) -> None:
    """Have `module` run the script, within limits that a test can wait for."""

    def run(command: list[str], *, memory_bytes: int, timeout_s: float, **rest: object) -> None:
        assert command
        assert min(memory_bytes, timeout_s) > 0
        run_vendor(
            [sys.executable, str(script)],
            memory_bytes=300 << 20,
            timeout_s=3.0,
            **rest,  # type: ignore[arg-type]
        )

    monkeypatch.setattr(module, "run_vendor", run)


def plain(folder: Path, script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = folder / "log.txt"
    run_vendor(
        [sys.executable, str(script)], what="toy", timeout_s=3.0, memory_bytes=300 << 20, log=log, environment={}
    )
    require_output([folder / "blob"], "toy", log)


def qnn(folder: Path, script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, compile.qnn_compiler, script)
    (folder / "weights.data").write_bytes(b"x" * 100)
    graphs = [(folder / "prefill.onnx", folder / "prefill_ctx.onnx")]
    compile_contexts(Hexagon(60, 73), graphs, "HTP compiler", folder, folder / "log.txt")


def npu(folder: Path, script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, compile.npu_compiler, script)
    monkeypatch.setenv(compile.npu_compiler.DOWNLOADS_VARIABLE, str(folder))
    monkeypatch.setattr(compile.npu_compiler, "write_probe", write_probe)
    (folder / "model.bin").write_bytes(b"x" * 100)
    compile_blob(NativeCompiler(folder / "library.so"), folder / "model.xml", "4000", {}, folder / "model.blob")


def write_probe(scratch: Path) -> Path:
    (scratch / "probe.bin").write_bytes(b"x")
    return scratch / "probe.xml"


def wine(folder: Path, script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, compile.npu_compiler_wine, script)
    WineCompiler(folder / "wine", folder / "gcc").make_prefix(folder)


def pip(folder: Path, script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, compile.pinned_environment, script)
    install(folder / "python", ["x==1"], PinnedEnvironment("x", folder / "pins.txt"), folder)


def stage(folder: Path, script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage's own child, which has its memory limited by itself."""
    begun = subprocess.Popen

    def started(command: list[str], **options: object) -> "subprocess.Popen[str]":
        assert command
        return begun([sys.executable, str(script)], **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(tapeout.child.subprocess, "Popen", started)  # type: ignore[attr-defined]
    run_child({"stage": "compile"}, folder, 3, Children(), lambda done, total: None)


def one(pattern: str) -> Callable[[Path], Path]:
    return lambda folder: next(folder.rglob(pattern))


RUNNERS = {
    "vendor child": Runner(plain, one("log.txt")),
    "Qualcomm HTP compiler": Runner(qnn, one("log.txt")),
    "Intel NPU compiler": Runner(npu, one("compile-4000-*.log")),
    "Wine": Runner(wine, one("prefix.log")),
    "pip of another environment": Runner(pip, one("pip.log")),
    "stage": Runner(stage, one("log.txt")),
}
# A prefix or an installation is judged by how it ends; a stage limits its memory itself.
CASES = [
    (runner, deed)
    for runner in RUNNERS
    for deed in DEEDS
    if not (deed == "writes nothing" and runner in {"Wine", "pip of another environment"})
    and not (deed == "takes all memory" and runner == "stage")
]


def expected(runner: str, deed: str) -> tuple[type[TapeoutError], ...]:
    if deed == "hangs":
        return (TimedOut,)
    if runner == "stage" and deed in SIGNALLED:
        return (WorkerLost,)
    return (DeviceMissing,) if runner.startswith("pip") else (StageFailed,)


@pytest.mark.parametrize(("runner", "deed"), CASES)
def test_a_program_that_misbehaves_is_a_typed_error_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: str, deed: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(DEEDS[deed]))
    folder = tmp_path / "work"
    folder.mkdir()
    begun = time.monotonic()
    with pytest.raises(expected(runner, deed)) as caught:
        RUNNERS[runner].run(folder, script, monkeypatch)
    assert time.monotonic() - begun < SOON_S
    assert caught.value.help
    assert len(caught.value.what) < 10_000
    log = RUNNERS[runner].log(folder)
    if deed in {"fails", "writes nothing"} and runner != "stage":
        assert log.read_text().strip() in {"no such operator", "all went well"}
    if "100 MB" in deed:
        assert log.stat().st_size == STDERR_BYTES


def test_every_case_counts() -> None:
    assert len(CASES) == HOSTILE_CHILDREN.bounded == HOSTILE_CHILDREN.deep
    assert os.name == "posix"
