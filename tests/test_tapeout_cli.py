"""The command line as a user meets it: exit codes, errors with a next step, an intact store."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tapeout.store import Store
from tapeout.store_care import verify
from tests.tiny_folder import write_folder
from tests.tiny_gguf import Decoder, byte_level, write_model

NewFolder = Callable[[str], Path]
ROOT = Path(__file__).resolve().parents[1]
QUICK_S = 1.5


def tapeout(*arguments: str, cwd: Path, timeout: float = 120, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the command in `cwd`, where its artifacts go."""
    return subprocess.run(
        [sys.executable, "-m", "tapeout", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def assert_refused(done: "subprocess.CompletedProcess[str]", code: int, says: str) -> None:
    """One error, one next step, the documented code, no traceback."""
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    lines = done.stderr.splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert sum(line.startswith("help: ") for line in lines) == 1
    assert "Traceback" not in done.stderr


def test_help_is_quick(tmp_path: Path) -> None:
    start = time.monotonic()
    done = tapeout("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "build" in done.stdout
    assert time.monotonic() - start < QUICK_S


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("build", "rizen"), 2, "did you mean 'ryzen'"),
        (("build", "null", "--precision", "int5"), 2, "unknown precision 'int5'"),
        (("build", "null", "--model", "smollm3-135m"), 2, "smollm2-135m"),
        (("search", "null", "--passphrase-env", "SECRET"), 2, "without --sign-key"),
        (("build", "null", "--model", "nowhere/model.gguf"), 2, "nowhere/model.gguf"),
        (("build", "null", "--model", "hf:owner/name"), 2, "40"),
        (("build", "null", "--windows", "31"), 2, "more than the 30 texts"),
        (("report", "."), 4, "report.json"),
        (("validate", "."), 5, "manifest.json"),
    ],
)
def test_what_does_not_exist_is_refused_with_a_next_step(
    tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = tapeout(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert "help: " in done.stderr


def test_an_unknown_key_in_a_target_file_names_the_nearest(tmp_path: Path) -> None:
    text = (ROOT / "targets" / "data" / "null.toml").read_text().replace("kl_mean_max", "kl_mean_maximum", 1)
    (tmp_path / "mine.toml").write_text(text)
    assert_refused(tapeout("build", "mine.toml", cwd=tmp_path), 2, "did you mean 'kl_mean_max'")


def truncated_gguf(folder: Path) -> Path:
    path = write_model(folder / "model.gguf", Decoder(), byte_level("smollm"))
    path.write_bytes(path.read_bytes()[:-1000])
    return path


def foreign_gguf(folder: Path) -> Path:
    return write_model(folder / "model.gguf", Decoder(architecture="bert"), byte_level("smollm"))


def pickle_folder(folder: Path) -> Path:
    source = write_folder(folder / "model")
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    return source


def folder_without_tokenizer(folder: Path) -> Path:
    source = write_folder(folder / "model")
    (source / "tokenizer.json").unlink()
    return source


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (truncated_gguf, "model.gguf"),
        (foreign_gguf, "bert"),
        (pickle_folder, "pytorch_model.bin"),
        (folder_without_tokenizer, "tokenizer.json"),
    ],
)
def test_a_bad_model_is_refused_and_the_store_stays_clean(
    tmp_path: Path, make: Callable[[Path], Path], says: str
) -> None:
    done = tapeout("build", "null", "--model", str(make(tmp_path)), cwd=tmp_path)
    assert_refused(done, 4, says)
    store = Store(tmp_path / "artifacts" / ".store")
    assert verify(store).clean
    assert not list(store.records())
    assert not list((tmp_path / "artifacts" / ".store" / "tmp").glob("*"))


def small_folder(folder: Path) -> Path:
    return write_folder(folder / "model")


def small_gguf(folder: Path) -> Path:
    return write_model(folder / "model.gguf", Decoder(), byte_level("smollm"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
@pytest.mark.parametrize(
    ("write", "says"), [(small_folder, "MB of disk, and 0.3 MB are free"), (small_gguf, "No space left")]
)
def test_a_full_disk_is_said_and_the_store_stays_clean(
    tmp_path: Path, write: Callable[[Path], Path], says: str
) -> None:
    """Beforehand where a build's size can be told, else when it happens."""
    small, source = tmp_path / "small", write(tmp_path)
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("this container may not mount")
    try:
        done = tapeout("--store", str(small / "store"), "build", "null", "--model", str(source), cwd=tmp_path)
        assert_refused(done, 8, says)
        assert verify(Store(small / "store")).clean
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    source, locked = write_folder(tmp_path / "model"), tmp_path / "locked"
    locked.mkdir(mode=0o500)
    done = tapeout("--store", str(locked / "store"), "build", "null", "--model", str(source), cwd=tmp_path)
    assert_refused(done, 8, "locked")


def heed_interrupts() -> None:
    """Undo what a background job inherits: there SIGINT is ignored, and a person's terminal is meant here."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_build_leaves_nothing_behind_and_goes_on(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    source = write_folder(tmp_path / "model")
    command = [sys.executable, "-m", "tapeout", "build", "null", "--model", str(source)]
    child = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,  # noqa: PLW1509 - this process has no other thread yet
    )
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith("run   export"):
            break
    time.sleep(0.5)
    child.send_signal(number)
    said = child.stderr.read()
    assert child.wait(30) == code
    assert "interrupted" in said
    assert "Traceback" not in said
    store = Store(tmp_path / "artifacts" / ".store")
    assert verify(store).clean
    assert [record.stage for record in store.records()] == ["import"]
    assert not list((tmp_path / "artifacts" / ".store" / "tmp").glob("*"))
    foreseen = tapeout("plan", "null", "--model", str(source), "--format", "json", cwd=tmp_path)
    assert [job["stage"] for job in json.loads(foreseen.stdout) if job["hit"]] == ["import"]


def test_doctor_and_targets_speak_json(tmp_path: Path) -> None:
    doctor = json.loads(tapeout("doctor", "--format", "json", cwd=tmp_path).stdout)
    assert {each["name"]: each["version"] for each in doctor["findings"]}["openvino"]
    assert doctor["host"]["python"].startswith("3.11")
    targets = json.loads(tapeout("targets", "--format", "json", cwd=tmp_path).stdout)
    assert {"ryzen", "cpu", "null"} <= {target["target"] for target in targets}


def test_the_store_commands(tmp_path: Path) -> None:
    assert tapeout("store", "stats", cwd=tmp_path).stdout.startswith("0 entries")
    assert tapeout("store", "verify", cwd=tmp_path).returncode == 0
    assert "0 entries" in tapeout("store", "gc", "--dry-run", cwd=tmp_path).stdout


def test_names_that_strangers_chose_cannot_steer_the_terminal(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "model")
    (source / "\x1b]0;owned\x07\u202eyp.egnahc.py").write_text("")
    done = tapeout("build", "null", "--model", str(source), cwd=tmp_path)
    assert_refused(done, 4, "yp.egnahc.py")
    assert "\x1b" not in done.stderr
    assert "\u202e" not in done.stderr
