"""Compile graphs of fixed shapes for Qualcomm's HTP: the program that runs in the vendor's child process.

`python -m compile.qnn_compiler JOB.json` compiles each graph of the job into a context beside it; all contexts share
one binary. The job: {"folder": where the files are, "options": provider options, "graphs": [[source, context], ...]}.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from compile.qnn_options import Hexagon
from compile.vendor_child import require_output, run_vendor
from targets.errors import DeviceMissing, StageFailed

PROVIDER = "QNNExecutionProvider"

# The compiler holds a few copies of the weights, and the simulator's libraries.
BASE_BYTES = 4 << 30
BYTES_PER_WEIGHT_BYTE = 24
# SmolLM2 in 4 bits (90 MB of weights) takes 62 s of processor time for both graphs, and 1.6 GB.
BASE_S = 600.0
S_PER_WEIGHT_BYTE = 5e-6


def compile_contexts(
    hexagon: Hexagon, graphs: Sequence[tuple[Path, Path]], what: str, scratch: Path, log: Path
) -> None:
    """Compile (source, context) pairs in a child; the binary all contexts share is called after the first of them.

    Args:
        hexagon: the device.
        graphs: ONNX files of fixed shapes, and their contexts, all in one folder.
        what: names the job in an error.
        scratch: an existing folder for the job's description.
        log: for all that the compiler says.

    Raises:
        StageFailed: the compiler crashed, refused a graph, took too much memory or wrote nothing.
        TimedOut: it did not end in time.
    """
    folder = graphs[0][0].parent
    weights = sum(path.stat().st_size for path in folder.glob("*.data"))
    job = {
        "folder": str(folder),
        "options": {**hexagon.provider_options(), "enable_htp_weight_sharing": "1"},
        "graphs": [[source.name, context.name] for source, context in graphs],
    }
    (scratch / "job.json").write_text(json.dumps(job), encoding="utf-8")
    run_vendor(
        [sys.executable, "-m", "compile.qnn_compiler", str(scratch / "job.json")],
        what=what,
        timeout_s=BASE_S + S_PER_WEIGHT_BYTE * weights,
        memory_bytes=BASE_BYTES + BYTES_PER_WEIGHT_BYTE * weights,
        log=log,
        environment={},
    )
    first = graphs[0][1]
    require_output([*(context for _, context in graphs), binary_of(first)], what, log)


def binary_of(context: Path) -> Path:
    """The binary that the execution provider writes beside the first context of a job."""
    return context.with_name(f"{context.stem}_qnn.bin")


def tools() -> dict[str, str]:
    """The versions that decide what is compiled; QAIRT is the vendor's SDK inside the wheel.

    Raises:
        DeviceMissing: the execution provider is not installed.
    """
    try:
        from onnxruntime_qnn.build_and_package_info import qnn_version
    except ImportError as error:
        raise DeviceMissing(
            "onnxruntime-qnn, which holds the HTP's compiler, is not installed",
            "pip install onnxruntime-qnn (x86-64 with glibc 2.35 or newer), then build again",
        ) from error
    return {**{name: version(name) for name in ("onnxruntime", "onnxruntime-qnn")}, "qairt": str(qnn_version)}


def open_provider() -> list[object]:
    """Register the execution provider with ONNX Runtime and return the one device it offers.

    Raises:
        StageFailed: it offers none.
    """
    import onnxruntime
    import onnxruntime_qnn

    onnxruntime.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER][:1]
    if not devices:
        raise StageFailed(f"{PROVIDER} offers no device here", "it needs x86-64 with glibc 2.35, or a Snapdragon")
    return devices


def compile_job(job: Mapping[str, object]) -> None:
    """Open one session for each graph in this process, which writes the contexts.

    A graph of which anything would stay on the CPU is an error here.
    """
    import onnxruntime

    # The execution provider names what it compiles after the path it is given; without folders it is always the same.
    os.chdir(str(job["folder"]))
    devices = open_provider()
    graphs: Sequence[Sequence[str]] = job["graphs"]  # type: ignore[assignment]
    for index, (source, context) in enumerate(graphs):
        options = onnxruntime.SessionOptions()
        entries = {
            "session.disable_cpu_ep_fallback": "1",
            "ep.context_enable": "1",
            "ep.context_file_path": context,
            "ep.context_embed_mode": "0",
            "ep.share_ep_contexts": "1",
        }
        if index == len(graphs) - 1:
            entries["ep.stop_share_ep_contexts"] = "1"
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        options.add_provider_for_devices(devices, job["options"])
        onnxruntime.InferenceSession(source, options)


if __name__ == "__main__":
    compile_job(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
