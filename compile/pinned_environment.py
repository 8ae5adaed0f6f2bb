"""A virtual environment of its own for a tool whose requirements contradict ours: made on demand, pinned, kept."""

import fcntl
import hashlib
import os
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from compile.vendor_child import run_vendor
from targets.errors import DeviceMissing, StageFailed, TimedOut

FOLDER_VARIABLE = "TAPEOUT_DOWNLOADS"
PIP_SECONDS = 3600.0
PIP_BYTES = 4 << 30
COMPLETE = ".complete"  # written last: an installation that was interrupted is taken up again


@dataclass(frozen=True)
class PinnedEnvironment:
    """What is installed, and in which order.

    Attributes:
        name: fit for a folder name.
        requirements: a file of exact versions, every package that is to be there; nothing else is resolved.
        first: packages of it to install alone before the rest. torch is one: resolved with others it comes as
            gigabytes of CUDA.
    """

    name: str
    requirements: Path
    first: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What the environment is made of, as 16 hexadecimal digits."""
        text = f"{sys.version_info[:2]}\n{self.first}\n{self.requirements.read_text(encoding='utf-8')}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def folder(self, kept: Path) -> Path:
        """Where it is, below the folder `kept`."""
        return kept / "environments" / f"{self.name}-{self.key}"


def environments_folder() -> Path:
    """Where this machine keeps what is fetched: the folder in `TAPEOUT_DOWNLOADS`, or the user's cache."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else Path.home() / ".cache" / "tapeout"


def is_complete(environment: PinnedEnvironment, kept: Path) -> bool:
    """Whether the environment is there, all of it."""
    return (environment.folder(kept) / COMPLETE).exists()


def ensure_environment(environment: PinnedEnvironment, kept: Path) -> Path:
    """The environment's Python interpreter, installing what is missing; two processes at once make it once.

    Raises:
        DeviceMissing: pip could not install the pinned packages.
        TimedOut: pip did not end.
    """
    folder = environment.folder(kept)
    python = folder / "bin" / "python"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_complete(environment, kept):
            venv.EnvBuilder(with_pip=True).create(folder)
            pins = read_pins(environment.requirements)
            for package in environment.first:
                install(python, [f"{package}=={pins[package]}"], environment, folder)
            install(python, ["--no-deps", "--requirement", str(environment.requirements)], environment, folder)
            (folder / COMPLETE).touch()
    return python


def install(python: Path, arguments: list[str], environment: PinnedEnvironment, folder: Path) -> None:
    """Run pip in the environment; its log stays beside it."""
    command = [str(python), "-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check", *arguments]
    what = f"environment {environment.name}: pip install {' '.join(arguments)}"
    log = folder / "pip.log"
    try:
        run_vendor(command, what=what, timeout_s=PIP_SECONDS, memory_bytes=PIP_BYTES, log=log, environment={})
    except TimedOut:
        raise
    except StageFailed as error:
        raise DeviceMissing(
            error.what, f"this needs a package index, once: see {log}; or copy {folder.name} from a machine that has it"
        ) from error


def read_pins(requirements: Path) -> dict[str, str]:
    """Version by package of a file of exact versions.

    Raises:
        StageFailed: a line pins no exact version.
    """
    pins = {}
    for line in requirements.read_text(encoding="utf-8").splitlines():
        text = line.split("#", 1)[0].strip()
        if not text:
            continue
        name, exact, pinned = text.partition("==")
        if not exact or not pinned or not name:
            raise StageFailed(f"{requirements.name}: '{text}' pins no exact version", "write name==version")
        pins[name.strip()] = pinned.strip()
    return pins
