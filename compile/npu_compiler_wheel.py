"""OpenVINO's Windows wheel: the one public package that carries the Intel NPU compiler. Fetched by pinned digest."""

import subprocess
import sys
import zipfile
from pathlib import Path

from export.digest import digest_file
from targets.errors import DeviceMissing, IntegrityError, TimedOut

VERSION = "2026.4.1"
WHEEL = "openvino-2026.4.1-22982-cp311-cp311-win_amd64.whl"
WHEEL_SHA256 = "bfddae6d6d3ad240157b946f180c33d0ddfaaae7487995d929a4e6b4bc12b283"

# What reading an IR and compiling it for an NPU loads, of the 40 libraries in the wheel.
LIBRARIES = (
    "openvino.dll",
    "openvino_c.dll",
    "openvino_ir_frontend.dll",
    "openvino_intel_npu_plugin.dll",
    "openvino_intel_npu_compiler.dll",
    "openvino_intel_npu_compiler_loader.dll",
    "openvino_intel_npu_vm_runtime.dll",
    "tbb12.dll",
)
IMPORT_LIBRARY = "openvino_c.lib"
HEADERS = "openvino/include/"
C_HEADERS = HEADERS + "openvino/c/"

DOWNLOAD_SECONDS = 900
_OTHER_WAY = "connect this machine to a package index once; the NPU package is made without its blob until then"


def fetch_wheel(folder: Path) -> Path:
    """Download the wheel to `folder`.

    Raises:
        DeviceMissing: it cannot be downloaded.
        IntegrityError: what was downloaded is not what is pinned.
        TimedOut: the download did not end within a quarter of an hour.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"openvino=={VERSION} --hash=sha256:{WHEEL_SHA256}\n", encoding="ascii")
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--no-input", "--disable-pip-version-check"]
    options += ["--platform", "win_amd64", "--python-version", "3.11", "--implementation", "cp"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-cache-dir", *options, "-d", str(folder)]
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
        raise TimedOut(f"downloading {WHEEL} took over {DOWNLOAD_SECONDS} s", _OTHER_WAY) from error
    wheel = folder / WHEEL
    if done.returncode or not wheel.is_file():
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = reasons[-1] if reasons else f"pip ended with {done.returncode}"
        raise DeviceMissing(f"the NPU compiler is not on this machine and cannot be fetched: {reason}", _OTHER_WAY)
    return wheel


def unpack_wheel(wheel: Path, folder: Path) -> None:
    """Unpack the libraries, the import library and the C headers to the empty `folder`.

    Raises:
        IntegrityError: the wheel is not the pinned one.
    """
    if digest_file(wheel) != WHEEL_SHA256:
        raise IntegrityError(f"{wheel.name} is not the wheel that is pinned", _OTHER_WAY)
    with zipfile.ZipFile(wheel) as archive:
        for name in (*LIBRARIES, IMPORT_LIBRARY):
            (folder / name).write_bytes(archive.read(f"openvino/libs/{name}"))
        for name in archive.namelist():
            if name.startswith(C_HEADERS) and name.endswith(".h"):
                archive.extract(name, folder)
