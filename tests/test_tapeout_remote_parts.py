"""What decides a validation on a device, piece by piece, without a connection."""

import ast
import dataclasses
import json
import os
import signal
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from tapeout.cli import main
from tapeout.code_version import tool_version
from tapeout.pipeline import find_stage
from tapeout.remote_agent import end, listen
from tapeout.remote_cache import MARGIN, Cache
from tapeout.remote_channel import Channel, RefusedError
from tapeout.remote_failure import ConnectionLost, Unreachable, explain
from tapeout.remote_link import AGENT, agent_program
from tapeout.remote_merge import contradictions, failed_there
from tapeout.remote_needs import (
    LIBRARIES,
    Facts,
    check_device,
    check_python,
    check_runtimes,
    names_to_ask,
    runtime_versions,
    wanted_packages,
)
from tapeout.remote_parcel import pack
from tapeout.remote_place import OPTIONS, Place, parse_place, ssh_client
from targets.errors import DeviceMissing, IntegrityError, StageFailed, TapeoutError, TimedOut, UsageError
from targets.status import Status, Verdict
from targets.target import Target, load_target
from tests.sshd import find_sshd
from tests.tiny_build import bench
from validate.package_measurement import Measurement
from validate.report import RuntimeReport

ROOT = Path(__file__).resolve().parents[1]
BOARD = Place("me@board", 2222)
VERSIONS = {"openvino": "2026.4.1", "openvino-genai": "2026.4.1.0", "openvino-tokenizers": "2026.4.1.0"}
TOOLS = {"openvino": VERSIONS, "onnxruntime": {"onnxruntime": "1.31.1", "onnxruntime-genai": "0.18.0"}}
HOST: dict[str, object] = {
    "architecture": "x86-64",
    "cpu_model": "AMD Ryzen AI 9 HX 370",
    "cores_physical": 12,
    "cores_logical": 24,
    "memory_bytes": 1 << 35,
    "instruction_sets": ["avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16"],
    "governor": None,
    "kernel": "6.12",
    "os": "Linux",
    "python": "3.11.9",
    "glibc": "2.36",
    "temperature_c": None,
}


def manifest_of(*packages: tuple[str, str]) -> dict[str, Any]:
    """A manifest with packages (device, back end) in one scheme, measured when they were built."""
    return {
        "packages": {
            f"packages/{device}-{backend}": {"device": device, "backend": backend, "recipe": "w8-sym"}
            for device, backend in packages
        },
        "stages": [
            {"name": f"measure w8-sym {device}-{backend}", "tools": {"tokenizers": "0.22.2", **TOOLS[backend]}}
            for device, backend in packages
        ],
    }


def device_with(**versions: str | None) -> Facts:
    """A Linux board with everything, but for what is said of single distributions."""
    everything: dict[str, str | None] = dict.fromkeys(LIBRARIES, "1.0")
    everything |= {"tokenizers": "0.22.2", **TOOLS["openvino"], **TOOLS["onnxruntime"]}
    return Facts("Linux", "x86_64", everything | {name.replace("_", "-"): found for name, found in versions.items()})


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("board", "board", None),
        ("root@board", "root@board", None),
        ("root@board.lab.example:2222", "root@board.lab.example", 2222),
        ("dev-kit_3:22", "dev-kit_3", 22),
        ("192.168.7.2:22", "192.168.7.2", 22),
        ("me@[fe80::1%usb0]:22", "me@fe80::1%usb0", 22),
        ("me@2001:db8::17", "me@2001:db8::17", None),
    ],
)
def test_a_device_is_named_as_with_ssh(text: str, host: str, port: int | None) -> None:
    assert parse_place(text) == (host, port)


@pytest.mark.parametrize(
    "text", ["", "-oProxyCommand=x", "me@-oProxyCommand=x", "a b", "board:", "board:0", "board:70000", "b;ls", "$(x)@b"]
)
def test_what_ssh_could_take_for_an_option_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="does not name a device"):
        parse_place(text)


def test_the_command_is_strict_and_one_word_of_the_shell_each() -> None:
    command = dataclasses.replace(BOARD, ssh=("ssh", "-F", "mine")).command("python3", "-c", "print('a b')")
    assert command[:3] == ["ssh", "-F", "mine"]
    assert command[-5:] == ["-p", "2222", "--", "me@board", "python3 -c 'print('\"'\"'a b'\"'\"')'"]
    assert "StrictHostKeyChecking=yes" in command
    assert "BatchMode=yes" in command
    assert [command[index - 1] for index, word in enumerate(command) if word in OPTIONS] == ["-o"] * len(OPTIONS)


def test_the_client_may_be_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAPEOUT_SSH", raising=False)
    assert ssh_client() == ("ssh",)
    monkeypatch.setenv("TAPEOUT_SSH", "ssh -F 'my config'")
    assert ssh_client() == ("ssh", "-F", "my config")
    monkeypatch.setenv("TAPEOUT_SSH", "ssh '")
    with pytest.raises(UsageError, match="TAPEOUT_SSH"):
        ssh_client()


@pytest.mark.parametrize(
    ("code", "said", "connected", "kind", "names"),
    [
        (255, "ssh: connect to host b port 22: Connection refused", False, Unreachable, "Connection refused"),
        (255, "ssh: Could not resolve hostname b: Name or service not known", False, Unreachable, "resolve"),
        (255, "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key", False, IntegrityError, "another host"),
        (255, "No ED25519 host key is known for b\nHost key verification failed.", False, DeviceMissing, "not known"),
        (255, "me@b: Permission denied (publickey).", False, DeviceMissing, "without a password"),
        (127, "sh: 1: python3: not found", False, DeviceMissing, "has no python3"),
        (1, "SyntaxError", False, DeviceMissing, "ended with 1"),
        (255, "Connection to b closed by remote host.", True, ConnectionLost, "was lost"),
        (1, "Traceback\nKeyError: 'x'", True, StageFailed, "KeyError"),
    ],
)
def test_whatever_ssh_says_names_the_device_and_the_next_step(
    code: int, said: str, connected: bool, kind: type[TapeoutError], names: str
) -> None:
    error = explain(BOARD, code, said, connected)
    assert type(error) is kind
    assert names in error.what
    assert "me@board" in error.what
    assert error.help


def test_every_package_is_measured_but_those_of_a_kind_there_are_several_of() -> None:
    target = load_target("core-ultra")
    packages = {
        "packages/cpu-openvino": {"device": "cpu", "backend": "openvino"},
        "packages/npu-3720-x": {"device": "npu-3720", "backend": "openvino"},
        "packages/npu-4000-x": {"device": "npu-4000", "backend": "openvino"},
    }
    asked, left = wanted_packages(target, packages, ())
    assert asked == ("packages/cpu-openvino",)
    assert "--on-device says which" in left["packages/npu-4000-x"]
    asked, left = wanted_packages(target, packages, ("npu-4000",))
    assert asked == ("packages/npu-4000-x",)
    assert set(left) == {"packages/cpu-openvino", "packages/npu-3720-x"}
    with pytest.raises(UsageError, match="unknown device 'npu-400'") as caught:
        wanted_packages(target, packages, ("npu-400",))
    assert "npu-4000" in caught.value.help
    with pytest.raises(UsageError, match="holds no package"):
        wanted_packages(target, {}, ())
    null = load_target("null")
    with pytest.raises(UsageError, match="no runtime"):
        wanted_packages(null, {"packages/null-null": {"device": "null", "backend": "null"}}, ())


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return bench(tmp_path)


def test_the_versions_asked_for_are_those_of_the_build(target: Target) -> None:
    manifest = manifest_of(("cpu", "openvino"), ("cpu", "onnxruntime"))
    assert runtime_versions(manifest, "packages/cpu-openvino") == {"tokenizers": "0.22.2", **VERSIONS}
    assert {"numpy", "openvino", "onnxruntime-genai"} <= set(names_to_ask(manifest))
    ready, left = check_runtimes(BOARD, device_with(), manifest, target, tuple(manifest["packages"]))
    assert (ready, left) == (tuple(manifest["packages"]), {})


def test_the_libraries_asked_for_are_installed_with_every_runtime() -> None:
    assert all(tool_version(name) != "absent" for name in LIBRARIES)
    assert "tokenizers" in find_stage("measure").part_of({"backend": "openvino"}).tools


def test_another_version_is_refused_and_both_are_named(target: Target) -> None:
    manifest = manifest_of(("cpu", "openvino"), ("cpu", "onnxruntime"))
    facts = device_with(onnxruntime="1.30.0")
    with pytest.raises(DeviceMissing) as caught:
        check_runtimes(BOARD, facts, manifest, target, tuple(manifest["packages"]))
    assert "me@board has onnxruntime 1.30.0" in caught.value.what
    assert "built with 1.31.1" in caught.value.what
    assert caught.value.help == (
        "run on me@board: python3 -m pip install tokenizers==0.22.2 onnxruntime==1.31.1 onnxruntime-genai==0.18.0"
    )


def test_a_runtime_that_is_not_there_leaves_its_package_and_no_other(target: Target) -> None:
    manifest = manifest_of(("cpu", "openvino"), ("cpu", "onnxruntime"))
    facts = device_with(onnxruntime_genai=None)
    ready, left = check_runtimes(BOARD, facts, manifest, target, tuple(manifest["packages"]))
    assert ready == ("packages/cpu-openvino",)
    assert left == {"packages/cpu-onnxruntime": "onnxruntime-genai is not installed"}
    with pytest.raises(DeviceMissing, match="can run no package") as caught:
        check_runtimes(BOARD, facts, manifest, target, ("packages/cpu-onnxruntime",))
    assert "pip install onnxruntime-genai==0.18.0" in caught.value.help


def test_a_device_of_another_architecture_is_refused() -> None:
    manifest = manifest_of(("cpu", "openvino"))
    facts = dataclasses.replace(device_with(), machine="aarch64")
    with pytest.raises(DeviceMissing, match="it is for x86-64, not arm64"):
        check_runtimes(BOARD, facts, manifest, load_target("ryzen"), tuple(manifest["packages"]))


def test_a_device_that_cannot_run_tapeout_is_refused() -> None:
    check_device(BOARD, device_with())
    check_python(BOARD, "3.11.2")
    with pytest.raises(DeviceMissing, match=r"is Python 3\.12\.1; Tapeout needs 3\.11"):
        check_python(BOARD, "3.12.1")
    with pytest.raises(DeviceMissing, match="runs Windows"):
        check_device(BOARD, dataclasses.replace(device_with(), system="Windows"))
    with pytest.raises(DeviceMissing, match="has no numpy") as caught:
        check_device(BOARD, device_with(numpy=None))
    assert f"numpy=={tool_version('numpy')}" in caught.value.help


def test_a_parcel_holds_what_is_read_there_and_is_the_same_every_time(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    files = ("golden/golden.npz", "packages/cpu-a/model", "packages/cpu-ab/model", "report.json")
    for path in files:
        (bundle / path).parent.mkdir(parents=True, exist_ok=True)
        (bundle / path).write_text(path)
    manifest = {"files": {path: f"digest of {path}" for path in files}}
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    parcel = pack(bundle, manifest, ["packages/cpu-a"], tmp_path / "one")
    assert set(parcel.files) == {"golden/golden.npz", "packages/cpu-a/model"}
    assert set(parcel.sizes) == {*parcel.files.values(), parcel.program}
    assert pack(bundle, manifest, ["packages/cpu-a"], tmp_path / "two").program == parcel.program
    with zipfile.ZipFile(parcel.sources[parcel.program]) as program:
        names = set(program.namelist())
    assert {name.partition("/")[0] for name in names} == {
        "compile",
        "export",
        "quantize",
        "tapeout",
        "targets",
        "validate",
    }
    assert {"tapeout/stage_process.py", "validate/texts/golden.jsonl", "targets/data/cpu.toml"} <= names
    assert not [name for name in names if "__pycache__" in name]


def test_the_agent_starts_under_older_pythons_and_imports_nothing_of_ours_but_itself() -> None:
    for name in AGENT:
        module = ast.parse((ROOT / "tapeout" / f"{name}.py").read_text(encoding="utf-8"), feature_version=(3, 8))
        ours = [node.module for node in ast.walk(module) if isinstance(node, ast.ImportFrom) and node.module]
        ours = [module for module in ours if module.partition(".")[0] == "tapeout"]
        assert set(ours) <= {f"tapeout.{name}" for name in AGENT[: AGENT.index(name)]}
    compile(agent_program(), "agent", "exec")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A device's cache, whose client says nothing."""
    return Cache(tmp_path / "cache", Channel(*os.pipe()))


def test_room_is_made_from_what_is_not_wanted(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    for age, name in enumerate(("wanted", "newer", "older")):
        path = cache.objects / name
        path.write_bytes(bytes(100))
        os.utime(path, (1000 - age, 1000 - age))
    monkeypatch.setattr(Cache, "free", lambda cache: 1000 - 100 * len(list(cache.objects.iterdir())))
    cache.make_room(800, {"wanted"})
    assert {path.name for path in cache.objects.iterdir()} == {"wanted", "newer"}
    cache.make_room(1000, {"wanted"})
    assert {path.name for path in cache.objects.iterdir()} == {"wanted"}
    monkeypatch.setattr(Cache, "free", lambda cache: MARGIN)
    with pytest.raises(RefusedError) as caught:
        cache.look({"new": 1})
    assert caught.value.answer["error"]["type"] == "NoSpace"


def test_without_hard_links_every_file_counts_twice_and_is_copied(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    (cache.objects / "a").write_text("bytes")
    with zipfile.ZipFile(cache.objects / "program", "w") as program:
        program.writestr("x.py", "")
    monkeypatch.setattr(os, "link", refuse)
    assert not cache.can_link()
    run = cache.lay_out({"golden/file": "a"}, "program")
    assert (run / "golden" / "file").read_text() == "bytes"
    (run / "golden" / "file").write_text("changed")
    assert (cache.objects / "a").read_text() == "bytes"
    monkeypatch.setattr(Cache, "free", lambda cache: MARGIN + 7)
    with pytest.raises(RefusedError):
        cache.look({"b": 4})


@pytest.mark.parametrize("path", ["../outside", "/etc/outside", "golden/../../outside"])
def test_a_path_that_leaves_the_run_is_refused(cache: Cache, path: str) -> None:
    with pytest.raises(RefusedError, match="no path within a bundle"):
        cache.lay_out({path: "a"}, "program")


@pytest.fixture
def silent() -> Iterator["subprocess.Popen[bytes]"]:
    """A measurement that never says anything, with a process of its own below it."""
    shell = ["sh", "-c", "sleep 100 & echo $! >&2; wait"]
    child = subprocess.Popen(shell, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    yield child
    child.kill()
    child.wait()


def test_a_measurement_ends_with_its_client(silent: "subprocess.Popen[bytes]") -> None:
    source, client = os.pipe()
    os.close(client)
    start = time.monotonic()
    with pytest.raises(SystemExit):
        listen(silent, start + 60, Channel(source, os.pipe()[1]))
    assert time.monotonic() - start < 5


def test_a_measurement_that_is_late_is_ended_with_all_it_started(silent: "subprocess.Popen[bytes]") -> None:
    assert silent.stderr is not None
    below = psutil.Process(int(silent.stderr.readline()))
    source, _client = os.pipe()
    assert listen(silent, time.monotonic() + 0.2, Channel(source, os.pipe()[1])) == (True, False)
    assert end(silent, 0) == -signal.SIGKILL
    until = time.monotonic() + 10
    while below.is_running() and below.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_only_a_machine_that_could_be_the_device_is_taken_for_it() -> None:
    cpu = load_target("ryzen").devices[0]
    assert contradictions(Measurement(host=HOST), cpu) == []
    xeon = {**HOST, "cpu_model": "Intel(R) Xeon(R)", "instruction_sets": ["avx2", "avx512f", "amx_int8"]}
    said = contradictions(Measurement(host=xeon), cpu)
    assert "the device has avx_vnni, this host has not" in said
    assert "this host has amx_int8, the device has not" in said
    assert "its processor is Intel(R) Xeon(R)" in said


def test_no_pass_stands_against_a_device_that_could_not_run_the_package() -> None:
    passed = RuntimeReport("openvino", Status.HOST_MEASURED, Verdict.PASS, "ships", None, (), "packages/cpu-openvino")
    now = failed_there(passed, TimedOut("it took long", "wait longer"), "board")
    assert (now.verdict, now.next_step, now.status) == (Verdict.INCOMPLETE, "wait longer", Status.HOST_MEASURED)
    assert now.reason == "did not run on board: it took long"
    failed = dataclasses.replace(passed, verdict=Verdict.FAIL)
    assert failed_there(failed, TimedOut("it took long", "wait longer"), "board").verdict is Verdict.FAIL


def test_without_an_sshd_only_a_ci_job_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="apt-get install -y openssh-server"):
        find_sshd()
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="openssh-server"):
        find_sshd()


def test_options_of_a_device_need_one(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {}}))
    done = CliRunner().invoke(main, ["validate", str(tmp_path), "--on-python", "python3.11"])
    assert isinstance(done.exception, UsageError)
    assert "--on" in done.exception.what
