"""`tapeout validate --on` against a real sshd on loopback, on a Python that has no builder's libraries."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from export.digest import digest_file, list_files
from tapeout.build import build
from tapeout.bundle import write_reports
from tapeout.manifest import MANIFEST, read_manifest
from tapeout.remote import validate_on
from tapeout.remote_link import Link
from tapeout.remote_place import Place
from tapeout.remote_visit import Visit
from tapeout.revalidate import load_package, open_bundle
from tapeout.store import Store
from targets.errors import DeviceMissing, IntegrityError, NoSpace, WorkerLost
from targets.status import Status, Verdict
from tests.sshd import ALIAS, Cut, Server, free_port, serve
from tests.tiny_build import Heard, bench, request
from tests.tiny_device import install, make_python, wrap
from tests.tiny_folder import spread_vectors, write_folder
from validate.assemble import Built, assemble_devices, headline
from validate.package_measurement import Measurement
from validate.report import Report, read_report

NewFolder = Callable[[str], Path]
ROOT = Path(__file__).resolve().parents[1]
SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 128}
OPENVINO = "packages/cpu-openvino"
ONNXRUNTIME = "packages/cpu-onnxruntime"


@pytest.fixture(scope="session")
def board(new_folder: NewFolder) -> Iterator[Server]:
    with serve(new_folder("sshd")) as server:
        yield server


@pytest.fixture(scope="session")
def python(new_folder: NewFolder) -> Path:
    return make_python(new_folder("device") / "venv")


@pytest.fixture(scope="session")
def measured(new_folder: NewFolder) -> Path:
    """A bundle of one CPU with both runtimes, as a host of its kind builds it."""
    source, work = write_folder(new_folder("tiny"), **SIZES), new_folder("work")
    spread_vectors(source)
    target = bench(work)
    cpu = target.devices[0]
    runtimes = tuple(dataclasses.replace(each, schemes=("w8-sym",)) for each in cpu.runtimes)
    target = dataclasses.replace(target, devices=(dataclasses.replace(cpu, runtimes=runtimes),))
    return build(request(target, source), Store(work / "store"), work / "out", Heard()).folder


@pytest.fixture(scope="session")
def bundle(measured: Path, new_folder: NewFolder) -> Path:
    """The same as a host without such a CPU would build it: nothing could be run."""
    folder = shutil.copytree(measured, new_folder("unmeasured") / "bundle")
    opened = open_bundle(measured, folder)
    built = []
    for path, package in opened.manifest["packages"].items():
        loaded = load_package(package, folder / path)
        built.append(
            Built("cpu", loaded.backend, package["recipe"], loaded, package["digest"], Measurement(stand_in=True))
        )
    devices = assemble_devices(opened.target, built)
    verdict, sentence = headline(opened.target, devices)
    assert verdict is Verdict.INCOMPLETE
    write_reports(dataclasses.replace(opened.report, verdict=verdict, headline=sentence, devices=devices), folder)
    files = {path: digest for path, digest in list_files(folder).items() if path != MANIFEST}
    sizes = {path: (folder / path).stat().st_size for path in files}
    manifest = {**opened.manifest, "files": files, "sizes": sizes}
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return folder


@pytest.fixture
def place(board: Server, python: Path, tmp_path: Path) -> Place:
    """The device, with a folder of its own for this test."""
    board.know(board.host_key())
    return Place(ALIAS, None, str(python), str(tmp_path / "cache"), 300, board.client())


def run(place: Place, bundle: Path, out: Path) -> tuple[Report, list[str]]:
    """(the merged report, what was said)."""
    said: list[str] = []
    done = validate_on(place, bundle, out, (), said.append)
    assert done.errors == ()
    return done.report, said


@pytest.fixture
def only_copied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The packages that would have been measured: the test is about what comes before."""
    asked: list[str] = []
    monkeypatch.setattr(Visit, "measure", lambda visit, link, path, found: asked.append(path))
    return asked


def command(place: Place, bundle: Path, *arguments: str) -> "subprocess.Popen[str]":
    """The same by the command line."""
    on = ["--on", place.host, "--on-python", place.python, "--on-folder", place.folder]
    return subprocess.Popen(
        [sys.executable, "-m", "tapeout", "validate", str(bundle), *on, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TAPEOUT_SSH": " ".join(place.ssh)},
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_only_whole_files(folder: Path) -> None:
    """What looks whole is whole, and no run is left."""
    objects = list((folder / "objects").iterdir())
    assert all(path.name == digest_file(path) for path in objects)
    assert not list((folder / "runs").iterdir())


def children_in(folder: str) -> list[psutil.Process]:
    """Processes that work below a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_an_incomplete_bundle_passes_on_its_device(place: Place, bundle: Path, tmp_path: Path) -> None:
    before = list_files(bundle)
    report, said = run(place, bundle, tmp_path / "out")
    assert report.verdict is Verdict.PASS, report.headline
    for runtime in report.devices[0].runtimes:
        assert (runtime.verdict, runtime.status) == (Verdict.PASS, Status.MEASURED)
        assert runtime.shipped is not None
        figures = runtime.shipped.measurement
        assert figures.host["machine"] == ALIAS
        assert set(figures.fidelity) == {"weights", "deployed"}
        assert figures.loading is not None
        assert len(figures.latency) == 2
        assert any(gate.name == "weights.runtime_kl_gap" for gate in runtime.shipped.gates)
    for path in (OPENVINO, ONNXRUNTIME):
        assert any(line.startswith(f"{path}: measured on {ALIAS} (") for line in report.assumptions)
        assert f"measure {path} on {ALIAS}" in said
    assert read_report(tmp_path / "out" / "report.json") == report
    assert ALIAS in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert list_files(bundle) == before
    assert_only_whole_files(Path(place.folder))
    # Nothing but what is read there is copied: no reports, no second Tapeout.
    held = {path.name for path in (Path(place.folder) / "objects").iterdir()}
    assert before["report.html"] not in held
    assert before[f"{OPENVINO}/openvino_model.bin"] in held


def test_a_second_validation_copies_nothing_but_what_was_damaged(
    place: Place, bundle: Path, tmp_path: Path, only_copied: list[str]
) -> None:
    assert run(place, bundle, tmp_path / "one")[1][0].endswith(f"to {ALIAS}, which has 0.0 MB already")
    said = run(place, bundle, tmp_path / "two")[1]
    assert said[0].startswith(f"copy 0.0 MB to {ALIAS}")
    digest = read_manifest(bundle)["files"][f"{ONNXRUNTIME}/model.onnx.data"]
    damaged = Path(place.folder) / "objects" / digest
    damaged.chmod(0o644)
    damaged.write_bytes(bytes(damaged.stat().st_size))
    said = run(place, bundle, tmp_path / "three")[1]
    assert not said[0].startswith("copy 0.0 MB")
    assert only_copied == [ONNXRUNTIME, OPENVINO] * 3
    assert digest_file(damaged) == digest


def test_a_device_that_is_too_slow_fails(place: Place, bundle: Path, tmp_path: Path) -> None:
    slow = shutil.copytree(bundle, tmp_path / "bundle")
    manifest = read_manifest(slow)
    manifest["target"]["gates"]["int8"]["ttft_ms_max"] = {"8": 1e-6}
    (slow / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    child = command(place, slow, "--out", str(tmp_path / "out"))
    said = child.communicate(timeout=300)[1]
    assert child.returncode == 1, said
    report = read_report(tmp_path / "out" / "report.json")
    assert report.verdict is Verdict.FAIL
    assert "ttft_ms.8" in report.devices[0].reason
    assert "Traceback" not in said


def test_another_host_key_is_never_accepted(place: Place, board: Server, bundle: Path, tmp_path: Path) -> None:
    board.know(board.host_key("other_key"))
    child = command(place, bundle, "--out", str(tmp_path / "out"))
    said = child.communicate(timeout=60)[1]
    assert child.returncode == IntegrityError.exit_code
    assert f"error: {ALIAS} answers with another host key" in said
    assert "help: " in said
    board.know(None)
    with pytest.raises(DeviceMissing, match="host key of board is not known"):
        run(place, bundle, tmp_path / "out")
    # Not even a user's configuration that trusts everybody changes that.
    trusting = board.folder / "trusting"
    text = Path(place.ssh[-1]).read_text(encoding="utf-8")
    trusting.write_text(f"{text}  StrictHostKeyChecking no\n  BatchMode no\n", encoding="utf-8")
    with pytest.raises(DeviceMissing, match="host key of board is not known"):
        run(dataclasses.replace(place, ssh=("ssh", "-F", str(trusting))), bundle, tmp_path / "out")
    assert not Path(place.folder).exists()
    assert not (tmp_path / "out").exists()


def test_a_key_that_the_device_does_not_know_is_refused(
    place: Place, board: Server, bundle: Path, tmp_path: Path
) -> None:
    text = Path(place.ssh[-1]).read_text(encoding="utf-8").replace("/user_key", "/other_key")
    (board.folder / "stranger").write_text(text, encoding="utf-8")
    with pytest.raises(DeviceMissing, match="does not let us in") as caught:
        run(dataclasses.replace(place, ssh=("ssh", "-F", str(board.folder / "stranger"))), bundle, tmp_path / "out")
    assert "ssh-copy-id" in caught.value.help


def test_a_connection_that_drops_while_copying_goes_on_where_it_stopped(
    place: Place,
    board: Server,
    bundle: Path,
    tmp_path: Path,
    only_copied: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tapeout.remote_visit.PAUSES_S", (0.1, 0.1))
    big = with_big_file(bundle, tmp_path)
    cut = Cut(board.port, [12_000_000, 8_000_000])
    with cut.listening() as port:
        said = run(dataclasses.replace(place, ssh=board.client(port, "cut")), big, tmp_path / "out")[1]
    assert only_copied == [ONNXRUNTIME, OPENVINO]
    assert sum("the connection to board was lost" in line for line in said) == 2
    assert len(cut.sent) == 3
    # The file of 30 MB crossed once: what was there already was not sent again.
    assert cut.sent[2] < 20_000_000
    assert sum(cut.sent) < 45_000_000
    assert_only_whole_files(Path(place.folder))
    assert not list((Path(place.folder) / "partial").iterdir())


@pytest.mark.usefixtures("only_copied")
def test_a_damaged_beginning_is_not_continued(place: Place, bundle: Path, tmp_path: Path) -> None:
    path = bundle / OPENVINO / "openvino_model.bin"
    digest = digest_file(path)
    for folder in ("partial", "objects"):
        (Path(place.folder) / folder).mkdir(parents=True)
    (Path(place.folder) / "partial" / digest).write_bytes(bytes(path.stat().st_size // 2))
    run(place, bundle, tmp_path / "out")
    assert_only_whole_files(Path(place.folder))
    assert (Path(place.folder) / "objects" / digest).is_file()


def with_big_file(bundle: Path, folder: Path) -> Path:
    """The bundle with a package file that takes a while to copy: nothing reads it."""
    copy = shutil.copytree(bundle, folder / "big")
    (copy / OPENVINO / "notes.bin").write_bytes(os.urandom(30_000_000))
    manifest = read_manifest(copy)
    manifest["files"][f"{OPENVINO}/notes.bin"] = digest_file(copy / OPENVINO / "notes.bin")
    manifest["sizes"][f"{OPENVINO}/notes.bin"] = 30_000_000
    (copy / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return copy


@pytest.mark.usefixtures("only_copied")
def test_a_connection_that_stays_lost_ends_with_nine_and_leaves_nothing_that_looks_whole(
    place: Place, board: Server, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tapeout.remote_visit.PAUSES_S", (0.1, 0.1))
    big = with_big_file(bundle, tmp_path)
    cut = Cut(board.port, [6_000_000] * 3)
    with cut.listening() as port, pytest.raises(WorkerLost, match="connection to board was lost") as caught:
        run(dataclasses.replace(place, ssh=board.client(port, "cut")), big, tmp_path / "out")
    assert caught.value.exit_code == 9
    assert "what was copied is kept" in caught.value.help
    assert not (tmp_path / "out").exists()
    wait_for(lambda: not list((Path(place.folder) / "runs").iterdir()))
    assert_only_whole_files(Path(place.folder))
    (partial,) = (Path(place.folder) / "partial").iterdir()
    arrived = partial.stat().st_size
    assert 10_000_000 < arrived < 30_000_000
    said = run(place, big, tmp_path / "out")[1]
    # What was on its way when the line was cut may still have arrived.
    assert 0 < float(said[0].split()[1]) * 1e6 <= 30_050_000 - arrived


def test_a_session_killed_while_measuring_is_made_again(
    place: Place, board: Server, bundle: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    dropped: list[int] = []

    def drop() -> None:
        wait_for(lambda: bool(children_in(place.folder)))
        dropped.append(board.drop())

    def say(text: str) -> None:
        said.append(text)
        if text == f"measure {ONNXRUNTIME} on {ALIAS}" and said.count(text) == 1:
            threading.Thread(target=drop).start()

    done = validate_on(place, bundle, tmp_path / "out", (), say)
    assert dropped[0] > 0
    assert done.report.verdict is Verdict.PASS
    assert sum("the connection to board was lost" in line for line in said) == 1
    assert said.count(f"measure {ONNXRUNTIME} on {ALIAS}") == 2
    wait_for(lambda: not children_in(place.folder))
    assert_only_whole_files(Path(place.folder))


def test_an_interrupted_validation_leaves_nothing_running_on_the_device(
    place: Place, bundle: Path, tmp_path: Path
) -> None:
    child = command(place, bundle, "--out", str(tmp_path / "out"))
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith("measure "):
            break
    wait_for(lambda: bool(children_in(place.folder)))
    child.terminate()
    assert "interrupted" in child.stderr.read()
    assert child.wait(30) == 143
    wait_for(lambda: not children_in(place.folder))
    wait_for(lambda: not list((Path(place.folder) / "runs").iterdir()))
    assert not (tmp_path / "out").exists()


def test_a_package_that_takes_too_long_is_left_and_the_report_says_so(
    place: Place, bundle: Path, measured: Path, tmp_path: Path
) -> None:
    assert read_report(measured / "report.json").verdict is Verdict.PASS
    child = command(place, measured, "--out", str(tmp_path / "out"), "--on-timeout", "1")
    said = child.communicate(timeout=120)[1]
    assert child.returncode == 7, said
    assert "took longer than 1 s" in said
    assert "help: " in said
    report = read_report(tmp_path / "out" / "report.json")
    assert report.verdict is Verdict.INCOMPLETE
    for runtime in report.devices[0].runtimes:
        assert f"did not run on {ALIAS}" in runtime.reason
        assert runtime.failures[0].error == "TimedOut"
        assert runtime.carried is not None
        assert "machine" not in runtime.carried.measurement.host
    assert not children_in(place.folder)


def test_a_wrong_runtime_version_is_refused_before_anything_is_copied(
    place: Place, python: Path, bundle: Path, tmp_path: Path
) -> None:
    install(tmp_path / "site", "openvino", "2026.3.0")
    other = wrap(python, tmp_path / "python", f"export PYTHONPATH={tmp_path / 'site'}")
    with pytest.raises(DeviceMissing) as caught:
        run(dataclasses.replace(place, python=str(other)), bundle, tmp_path / "out")
    built_with = read_report(bundle / "report.json")
    assert built_with.verdict is Verdict.INCOMPLETE
    wanted = next(each["tools"]["openvino"] for each in read_manifest(bundle)["stages"] if "openvino" in each["tools"])
    assert f"board has openvino 2026.3.0 where {OPENVINO} was built with {wanted}" in caught.value.what
    assert caught.value.help.startswith(f"run on board: {other} -m pip install ")
    assert f"openvino=={wanted} " in caught.value.help
    assert not Path(place.folder).exists()


def test_a_full_file_system_is_said_before_anything_is_copied(place: Place, bundle: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(small)]).returncode:  # noqa: PLW1510
        pytest.skip("only root may mount a small file system, and not everywhere")
    try:
        (small / "objects").mkdir()
        child = command(dataclasses.replace(place, folder=str(small)), bundle, "--out", str(tmp_path / "out"))
        said = child.communicate(timeout=60)[1]
        assert child.returncode == NoSpace.exit_code, said
        assert "error: board: " in said
        assert "MB are needed" in said
        assert "--on-folder" in said
        assert not [path for path in small.rglob("*") if path.is_file() and path.name != "lock"]
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_device_that_fills_up_while_copying_keeps_nothing_half_written(
    place: Place, python: Path, bundle: Path, tmp_path: Path
) -> None:
    big = with_big_file(bundle, tmp_path)
    limited = wrap(python, tmp_path / "python", "ulimit -f 16384")  # 8 or 16 MB a file, as the shell counts
    with pytest.raises(NoSpace) as caught:
        run(dataclasses.replace(place, python=str(limited)), big, tmp_path / "out")
    assert caught.value.what.startswith("board: cannot write")
    assert_only_whole_files(Path(place.folder))
    assert not list((Path(place.folder) / "partial").iterdir())


def test_a_folder_that_cannot_be_written_is_said(place: Place, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NoSpace, match="board: cannot write"):
        run(dataclasses.replace(place, folder=str(tmp_path / "file" / "cache")), bundle, tmp_path / "out")


def test_two_validations_at_once_are_refused(place: Place, bundle: Path, tmp_path: Path) -> None:
    with Link(place) as link:
        link.ask({"names": []})
        link.ask({"folder": place.folder, "session": "another", "look": {}})
        with pytest.raises(DeviceMissing, match="another validation is running"):
            run(place, bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there_or_has_no_python_is_said(
    place: Place, board: Server, bundle: Path, tmp_path: Path
) -> None:
    nobody = board.client(free_port(), "nobody")
    with pytest.raises(DeviceMissing, match="cannot reach board"):
        run(dataclasses.replace(place, ssh=nobody), bundle, tmp_path / "out")
    with pytest.raises(DeviceMissing, match="board has no python9"):
        run(dataclasses.replace(place, python="python9"), bundle, tmp_path / "out")
    with pytest.raises(DeviceMissing, match="cannot run no-such-ssh"):
        run(dataclasses.replace(place, ssh=("no-such-ssh",)), bundle, tmp_path / "out")
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\necho Welcome to the board\necho tapeout-device 3.9.18\nread line\n", encoding="utf-8")
    old.chmod(0o755)
    with pytest.raises(DeviceMissing, match=r"on board is Python 3\.9\.18; Tapeout needs 3\.11"):
        run(dataclasses.replace(place, python=str(old)), bundle, tmp_path / "out")
    assert not Path(place.folder).exists()


def test_what_a_login_shell_prints_is_passed_over(place: Place, python: Path, tmp_path: Path) -> None:
    chatty = wrap(python, tmp_path / "python", "echo Welcome to the board")
    with Link(dataclasses.replace(place, python=str(chatty))) as link:
        assert link.python.startswith("3.11")
        assert link.ask({"names": ["openvino", "torch-nowhere"]})["versions"]["torch-nowhere"] is None


def test_a_lock_does_not_outlive_its_connection(place: Place, board: Server) -> None:
    with Link(place) as link:
        link.ask({"names": []})
        link.ask({"folder": place.folder, "session": "one", "look": {}})
        assert board.drop() > 0
        with pytest.raises(WorkerLost, match="was lost"):
            link.ask({"bye": True})
    with Link(place) as link:
        link.ask({"names": []})
        assert link.ask({"folder": place.folder, "session": "one", "look": {}})["missing"] == {}


@pytest.mark.deep  # ssh takes 45 s to believe it
def test_a_device_that_falls_silent_is_lost_and_its_stale_agent_does_not_lock_it(
    place: Place, board: Server, bundle: Path, tmp_path: Path
) -> None:
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if text == f"measure {ONNXRUNTIME} on {ALIAS}" and said.count(text) == 1:
            board.freeze()

    done = validate_on(place, bundle, tmp_path / "out", (), say)
    assert done.report.verdict is Verdict.PASS
    (lost,) = [line for line in said if "the connection to board was lost" in line]
    assert "not responding" in lost


def test_a_package_that_takes_the_device_down_is_given_up_and_the_others_go_on(
    place: Place, board: Server, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tapeout.remote_visit.PAUSES_S", (0.1, 0.1))

    def drop() -> None:
        wait_for(lambda: bool(children_in(place.folder)))
        board.drop()

    def say(text: str) -> None:
        if text == f"measure {ONNXRUNTIME} on {ALIAS}":
            threading.Thread(target=drop).start()

    done = validate_on(place, bundle, tmp_path / "out", (), say)
    (error,) = done.errors
    assert isinstance(error, WorkerLost)
    assert f"2 times while {ONNXRUNTIME} was measured" in error.what
    openvino, onnxruntime = done.report.devices[0].runtimes
    assert (openvino.verdict, onnxruntime.verdict) == (Verdict.PASS, Verdict.INCOMPLETE)
