"""Compile this package for the Intel GPU of this machine, into a cache beside it, and ask it a question.

Runs inside the package, on the device, with OpenVINO GenAI and Python alone. Writes `finalized.json`. Ends with 0; with
3 when this machine has no Intel GPU or no runtime; with 5 when a file is not the one that was shipped; with 6 when the
GPU does not load or does not answer.
"""

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

MISSING, DAMAGED, FAILED = 3, 5, 6
QUESTION = "What is the capital of France?"


def stop(code: int, what: str, step: str) -> NoReturn:
    """End with a sentence for what happened and one for what to do."""
    sys.stderr.write(f"error: {what}\n help: {step}\n")
    sys.exit(code)


def check_weights(folder: Path, expected: str) -> None:
    """End unless the weights are those that were shipped."""
    path = folder / "openvino_model.bin"
    if path.is_file():
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() == expected:
                return
    stop(DAMAGED, "openvino_model.bin is not the file that was shipped", "copy the package again")


def find_gpu(requires: dict[str, str]) -> Any:
    """OpenVINO, on a machine with an Intel GPU; else end."""
    wanted = f"pip install openvino=={requires['openvino']} openvino-genai=={requires['openvino']}.0"
    try:
        import openvino as ov
        import openvino_genai  # noqa: F401 - needed later, missed now
    except ImportError as error:
        stop(MISSING, f"OpenVINO GenAI is not installed here ({error})", wanted)
    core = ov.Core()
    if "GPU" not in [name.split(".")[0] for name in core.available_devices]:
        stop(
            MISSING,
            f"OpenVINO finds no GPU on this machine; it finds {', '.join(core.available_devices) or 'nothing'}",
            "run this where an Intel GPU is, with Intel's compute runtime (Linux) or graphics driver (Windows)",
        )
    return core


def load(folder: Path, manifest: dict[str, Any]) -> tuple[str, float]:
    """Load the package with its kernels cached and ask it a question: the answer, and seconds to load.

    Raises:
        RuntimeError: the plugin refuses.
    """
    import openvino_genai

    start = time.perf_counter()
    cache = {"CACHE_DIR": str(folder / manifest["cache"])}
    pipeline = openvino_genai.LLMPipeline(str(folder), "GPU", **manifest["settings"], **cache)
    seconds = time.perf_counter() - start
    return str(pipeline.generate(QUESTION, max_new_tokens=20, do_sample=False)), seconds


def main() -> None:
    """Check, compile, ask, record."""
    folder = Path(__file__).resolve().parent
    manifest = json.loads((folder / "gpu.json").read_text(encoding="utf-8"))
    check_weights(folder, manifest["requires"]["weights_sha256"])
    core = find_gpu(manifest["requires"])
    try:
        answer, seconds = load(folder, manifest)
    except RuntimeError as error:
        stop(FAILED, f"the GPU does not load the package: {error}", "update the GPU's driver")
    if not answer.strip():
        stop(FAILED, "the GPU answers nothing", "validate the bundle with `tapeout validate` for the figures")
    device = str(core.get_property("GPU", "FULL_DEVICE_NAME"))
    record = {"device": device, "load_s": round(seconds, 3), "answer": answer}
    (folder / "finalized.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"compiled for {device} in {seconds:.1f} s\n{QUESTION}\n{answer}\n")


if __name__ == "__main__":
    main()
