"""Model files made to harm: each is refused at once, by its fault, and nothing happens outside its folder."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from export.model import import_model
from export.source import LocalFolder, parse_source, source_identity
from targets.errors import TapeoutError
from tests import hostile_folders, hostile_gguf, hostile_safetensors, hostile_templates
from tests.hostile_base import write_sound
from tests.strace_faults import require_strace
from tests.tiers import HOSTILE_MODELS
from tests.tiny_gguf import byte_level, write_model

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = hostile_safetensors.CASES | hostile_folders.CASES | hostile_templates.CASES
GGUFS = hostile_gguf.CASES

SECONDS = 2.0
# A machine with other work on it takes longer by the clock: what hangs is seen here, what is slow in processor time.
WALL_SECONDS = 20.0
PEAK_BYTES = 512 << 20

# Whatever starts a program, reaches for a network or changes a file.
WATCHED = (
    "execve,execveat,fork,vfork,clone,clone3,socket,connect,bind,sendto,openat,open,creat,rename,renameat,renameat2,unlink"
    ",unlinkat,mkdir,mkdirat,rmdir,symlink,symlinkat,link,linkat,chmod,fchmodat,chown,fchownat,truncate,mknod,mknodat"
)
HARMLESS = re.compile(r"/dev/null|/proc/self/|/sys/|/dev/shm/sem")


def identity_of(source: Path) -> dict[str, str]:
    """What a plan would say the source is; nothing where it would refuse it."""
    try:
        return source_identity(parse_source(str(source)))
    except TapeoutError:
        return {}


class Server:
    """The import stage under strace, one fork for each job."""

    def __init__(self, folder: Path) -> None:
        require_strace()
        self.log = folder / "calls"
        command = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", f"trace={WATCHED}", "-o", str(self.log)]
        self.process = subprocess.Popen(
            [*command, sys.executable, "-m", "tests.import_server"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, source: Path, folder: Path) -> dict[str, Any]:
        """What became of importing `source` with `folder` to work in."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        (folder / "out").mkdir(parents=True)
        job = {
            "stage": "import",
            "inputs": {},
            "parameters": {"source": identity_of(source)},
            "arguments": {"source": str(source), "downloads": str(folder / "downloads")},
            "out": str(folder / "out"),
        }
        (folder / "job.json").write_text(json.dumps(job))
        self.process.stdin.write(f"{folder / 'job.json'}\n")
        self.process.stdin.flush()
        told: dict[str, Any] = json.loads(self.process.stdout.readline())
        lines = (folder / "answer").read_text().splitlines()
        told["log"] = (folder / "log").read_text()[-2000:]
        return told | (json.loads(lines[-1]) if lines else {})

    def misdeeds(self, pid: int, folder: Path) -> list[str]:
        """What a job did beyond `folder`: changed a file, opened a socket, started anything but the template check."""
        calls = [line.strip().partition(" ") for line in self.log.read_text(errors="replace").splitlines()]
        family = {str(pid)}
        for number, _, call in calls:
            started = STARTED.search(call)
            if number in family and started:
                family.add(started[1])
        return [call.strip() for number, _, call in calls if number in family and misdeed(call.strip(), folder)]


STARTED = re.compile(r"^ *(?:<\.\.\. )?(?:fork|vfork|clone3?)\b.*\) = (\d+)$")


def misdeed(call: str, folder: Path) -> bool:
    """Whether a call that succeeded is one that a job has no business with."""
    name = call.partition("(")[0]
    if " = -1 " in call or name not in WATCHED.split(",") or name in {"fork", "vfork", "clone", "clone3"}:
        return False
    if name == "execve":
        return f'"{sys.executable}", "-I", ' not in call or "template_process.py" not in call
    return name == "socket" or not (reads(name, call) or str(folder) in call or HARMLESS.search(call))


def reads(name: str, call: str) -> bool:
    return name in {"openat", "open"} and not re.search("O_WRONLY|O_RDWR|O_CREAT", call)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("server"))
    yield running
    assert running.process.stdin is not None
    running.process.stdin.close()
    running.process.wait(60)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sound(tmp_path_factory.mktemp("sound") / "model")


def refused(server: Server, source: Path, work: Path, says: str) -> dict[str, Any]:
    """Import `source` and prove that it is refused in time, in memory and without a trace."""
    told = server.run(source, work)
    assert told["code"] == 0, told
    assert "error" in told, f"accepted: {told}"
    assert told["error"]["type"] == "InputRefused", told
    assert says in told["error"]["what"] + told["error"]["help"], told
    assert told["error"]["help"]
    assert told["cpu_s"] < SECONDS, told
    assert told["wall_s"] < WALL_SECONDS, told
    assert told["peak_bytes"] < PEAK_BYTES, told
    assert server.misdeeds(told["pid"], work) == []
    return told


@pytest.mark.parametrize("name", FOLDERS)
def test_a_hostile_folder_is_refused(server: Server, sound: Path, tmp_path: Path, name: str) -> None:
    damage, says = FOLDERS[name]
    source = Path(shutil.copytree(sound, tmp_path / "model"))
    damage(source)
    told = refused(server, source, tmp_path / "work", says)
    print(f"{told['cpu_s']:.2f} s of processor, {told['peak_bytes'] >> 20} MiB: {name}")  # noqa: T201


@pytest.mark.parametrize("name", GGUFS)
def test_a_hostile_gguf_is_refused(server: Server, tmp_path: Path, name: str) -> None:
    make, says = GGUFS[name]
    make(tmp_path / "model.gguf")
    told = refused(server, tmp_path / "model.gguf", tmp_path / "work", says)
    print(f"{told['cpu_s']:.2f} s of processor, {told['peak_bytes'] >> 20} MiB: {name}")  # noqa: T201


def test_the_models_they_are_made_from_are_imported(server: Server, sound: Path, tmp_path: Path) -> None:
    """Otherwise every refusal above could have another reason."""
    folder = server.run(sound, tmp_path / "folder")
    assert folder["value"]["architecture"] == "llama", folder
    assert server.misdeeds(folder["pid"], tmp_path / "folder") == []
    write_model(tmp_path / "model.gguf", hostile_gguf.SMALL, byte_level("gpt-2"))
    gguf = server.run(tmp_path / "model.gguf", tmp_path / "gguf")
    assert gguf["value"]["architecture"] == "llama", gguf


def test_what_a_stage_must_not_do_is_seen(server: Server, tmp_path: Path) -> None:
    """A file outside the folder of the job is one of the calls that count."""
    told = server.run(tmp_path / "nowhere", tmp_path / "work")
    assert server.misdeeds(told["pid"], tmp_path / "work") == []
    assert server.misdeeds(told["pid"], tmp_path / "elsewhere")


def test_the_corpus_has_its_size() -> None:
    assert len(FOLDERS) + len(GGUFS) == HOSTILE_MODELS.bounded == HOSTILE_MODELS.deep


def test_a_sound_folder_is_imported_in_process_too(sound: Path, tmp_path: Path) -> None:
    assert import_model(LocalFolder(sound), tmp_path / "out", tmp_path / "cache").architecture == "llama"
