"""Load this package on the NPU of this machine: from its blob where that fits the device, else compiled afresh.

Runs inside the package, on the device, with OpenVINO GenAI and Python alone. Writes `finalized.json`. Ends with 0; with
3 when this machine has no NPU, not the package's NPU or no runtime; with 5 when a file is not the one that was shipped;
with 6 when the NPU does not load or does not answer.
"""

import hashlib
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

MISSING, DAMAGED, FAILED = 3, 5, 6
QUESTION = "What is the capital of France?"


def stop(code: int, what: str, step: str) -> NoReturn:
    """End with a sentence for what happened and one for what to do."""
    sys.stderr.write(f"error: {what}\n help: {step}\n")
    sys.exit(code)


def sha256(path: Path) -> str:
    """Digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_files(folder: Path, requires: dict[str, str], blob: str | None) -> None:
    """End unless weights and blob are those that were shipped."""
    expected = {"openvino_model.bin": requires["weights_sha256"]}
    if blob:
        expected[blob] = requires["blob_sha256"]
    for name, digest in expected.items():
        if not (folder / name).is_file() or sha256(folder / name) != digest:
            stop(DAMAGED, f"{name} is not the file that was shipped", "copy the package again")


def find_npu(requires: dict[str, str]) -> Any:
    """OpenVINO, on a machine with the package's NPU; else end."""
    wanted = f"pip install openvino=={requires['openvino']} openvino-genai=={requires['openvino']}.0"
    try:
        import openvino as ov
        import openvino_genai  # noqa: F401 - needed later, missed now
    except ImportError as error:
        stop(MISSING, f"OpenVINO GenAI is not installed here ({error})", wanted)
    core = ov.Core()
    if "NPU" not in [name.split(".")[0] for name in core.available_devices]:
        stop(
            MISSING,
            f"OpenVINO finds no NPU on this machine; it finds {', '.join(core.available_devices) or 'nothing'}",
            f"run this on a machine with Intel NPU {requires['platform']} and Intel's NPU driver",
        )
    architecture = str(core.get_property("NPU", "DEVICE_ARCHITECTURE"))
    if architecture != requires["platform"]:
        stop(
            MISSING,
            f"this package is for NPU {requires['platform']} and this machine has NPU {architecture}",
            "take the package of that NPU from the bundle: each generation has its own",
        )
    return core


def why_not_import(core: Any, requires: dict[str, str], blob: str | None) -> str | None:
    """The reason to compile afresh rather than import the blob, or None."""
    if not blob:
        return "the package has no blob"
    here = importlib.metadata.version("openvino")
    if here != requires["openvino"]:
        return f"the blob is for OpenVINO {requires['openvino']} and this is {here}"
    if "COMPATIBILITY_CHECK" not in core.get_property("NPU", "SUPPORTED_PROPERTIES"):
        return None  # an older driver: the import itself will tell
    arguments = {"RUNTIME_REQUIREMENTS": requires["runtime_requirements"]}
    answer = str(core.get_property("NPU", "COMPATIBILITY_CHECK", arguments)).rsplit(".", 1)[-1]
    return f"the driver says {answer} to what the blob requires" if answer == "UNSUPPORTED" else None


def properties(folder: Path, manifest: dict[str, Any], imported: bool) -> dict[str, Any]:
    """What the pipeline is loaded with."""
    if imported:
        return {"BLOB_PATH": str(folder / manifest["blob"]), "WEIGHTS_PATH": str(folder / "openvino_model.bin")}
    fresh = folder / "device.blob"
    return {**manifest["pipeline"], "EXPORT_BLOB": "YES", "BLOB_PATH": str(fresh)}


def load(folder: Path, manifest: dict[str, Any], imported: bool) -> str:
    """Load the package and ask it a question.

    Raises:
        RuntimeError: the plugin refuses.
    """
    import openvino_genai

    pipeline = openvino_genai.LLMPipeline(str(folder), "NPU", **properties(folder, manifest, imported))
    return str(pipeline.generate(QUESTION, max_new_tokens=20, do_sample=False))


def main() -> None:
    """Check, load, ask, record."""
    folder = Path(__file__).resolve().parent
    manifest = json.loads((folder / "npu.json").read_text(encoding="utf-8"))
    requires, blob = manifest["requires"], manifest["blob"]
    check_files(folder, requires, blob)
    core = find_npu(requires)
    reason = why_not_import(core, requires, blob)
    answer = None
    if reason is None:
        try:
            answer = load(folder, manifest, imported=True)
        except RuntimeError as error:
            reason = f"the import failed: {error}"
    if answer is None:
        sys.stdout.write(f"compiling afresh: {reason}\n")
        try:
            answer = load(folder, manifest, imported=False)
        except RuntimeError as error:
            stop(FAILED, f"NPU {requires['platform']} does not load the package: {error}", "update Intel's NPU driver")
    if not answer.strip():
        stop(FAILED, "the NPU answers nothing", "validate the bundle with `tapeout validate` for the figures")
    driver = str(core.get_property("NPU", "NPU_DRIVER_VERSION"))
    record = {"imported": reason is None, "reason": reason, "driver": driver, "answer": answer}
    (folder / "finalized.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"loaded on NPU {requires['platform']}, driver {driver}\n{QUESTION}\n{answer}\n")


if __name__ == "__main__":
    main()
