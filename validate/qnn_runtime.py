"""Qualcomm's HTP through ONNX Runtime's QNN execution provider: on a Snapdragon itself, else in QAIRT's simulator."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from targets.errors import DeviceMissing
from targets.status import Status
from validate.graph_assignment import RECORD, read_assignment
from validate.measurement import Placement
from validate.onnx_activations import with_float_activations
from validate.onnx_graph import weight_bytes
from validate.runtime import DEPLOYED, WEIGHTS, Coverage
from validate.static_pipeline import StaticPipeline
from validate.static_session import StaticSession

PROVIDER = "QNNExecutionProvider"
PROVIDER_OPTIONS = ("backend_type", "soc_model", "htp_arch", "htp_performance_mode", "offload_graph_io_quantization")
MANIFEST = "htp.json"
ERRORS_ONLY = 3  # ONNX Runtime's log severity

# The simulator takes seconds a run, whether of one token or of a chunk: two chunks, the second reading what the first
# wrote to the cache and only partly full, and then single tokens.
COVERAGE = Coverage(windows=1, prefill=120, decode=4)

# Ends of the names of the nodes that reshape an embedding table and dequantize it (`compile.qnn_lowering`).
RESHAPED, TABLE = ".weight/Reshape", ".weight/table"

Sessions = dict[str, Any]


@dataclass(frozen=True)
class Graphs:
    """The sessions a package opens, by name: file of the source graph, file of its compiled context."""

    folder: Path
    sources: dict[str, str]
    contexts: dict[str, str]

    @classmethod
    def read(cls, package: Path) -> "Graphs":
        """From the package's manifest."""
        stated = json.loads((package / MANIFEST).read_text(encoding="utf-8"))["sessions"]
        sources = {name: str(session["graph"]) for name, session in stated.items()}
        return cls(package, sources, {name: str(session["context"]) for name, session in stated.items()})


class Qnn:
    """The QNN execution provider."""

    coverage: Coverage | None = COVERAGE

    def __init__(self) -> None:
        self.opened: dict[Path, Sessions] = {}

    @cached_property
    def device(self) -> Any:
        """What the execution provider offers: an NPU on a Snapdragon, a CPU to simulate one, or None."""
        try:
            version("onnxruntime-qnn")
        except PackageNotFoundError:
            return None
        import onnxruntime
        import onnxruntime_qnn

        offered = [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER]
        if not offered:
            onnxruntime.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
            offered = [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER]
        kinds = {device.device.type.name: device for device in reversed(offered)}
        return kinds.get("NPU") or kinds.get("CPU")

    @property
    def evidence(self) -> Status | None:
        """None on a Snapdragon, `simulated` where QAIRT simulates, `prepared` without the execution provider."""
        if self.device is None:
            return Status.PREPARED
        return None if self.device.device.type.name == "NPU" else Status.SIMULATED

    def session(self, package: Path, settings: Mapping[str, Any], setting: str) -> StaticSession:
        """The source graphs in float32 on the CPU, or the graphs as they ship."""
        graphs = Graphs.read(package)
        sessions = self.on_cpu(graphs) if setting == WEIGHTS else self.deployed(graphs, settings)
        return StaticSession(sessions["prefill"], sessions["decode"])

    def pipeline(self, package: Path, settings: Mapping[str, Any]) -> StaticPipeline | None:
        """The host's loop with the package's tokenizer on a Snapdragon; None in the simulator, which is too slow."""
        if self.evidence is not None:
            return None
        return StaticPipeline(self.session(package, settings, "deployed"), package)

    def boundaries(self, package: Path, settings: Mapping[str, Any]) -> tuple[StaticSession, tuple[int, ...]]:
        """A chunk that is full, one token short of it and one token over it."""
        session = self.session(package, settings, DEPLOYED)
        around = (session.chunk - 1, session.chunk, session.chunk + 1)
        return session, tuple(length for length in around if 0 < length < session.context)

    def placement(self, package: Path, settings: Mapping[str, Any]) -> tuple[Placement, ...]:
        """What each session says of its operators."""
        if self.device is None:
            return ()
        graphs = Graphs.read(package)
        return tuple(
            read_assignment(session, name, PROVIDER, self.weights(graphs, name))
            for name, session in self.deployed(graphs, settings).items()
        )

    def versions(self) -> dict[str, str]:
        """Versions of the runtime, of the execution provider, and of the QAIRT inside it."""
        found = {"onnxruntime": version("onnxruntime")}
        if self.device is not None:
            found |= {"onnxruntime-qnn": version("onnxruntime-qnn"), "qairt": qairt()}
        return found

    def on_cpu(self, graphs: Graphs) -> Sessions:
        """Sessions on the CPU in float32: that is what an accuracy level of 0 computes in.

        Integer activations are the device's, not the weights', and are left out.
        """
        return {name: open_on_cpu(graphs.folder / file) for name, file in graphs.sources.items()}

    def deployed(self, graphs: Graphs, settings: Mapping[str, Any]) -> Sessions:
        """Sessions as they ship, kept, since opening them compiles.

        A simulator cannot open a context (`contextCreateFromBinary` ends with NOT_SUPPORTED), so it compiles the
        sources again; so does a Snapdragon with another QAIRT than the contexts were made with.

        Raises:
            DeviceMissing: the execution provider is not installed.
        """
        if self.device is None:
            raise DeviceMissing("onnxruntime-qnn is not installed", "pip install onnxruntime-qnn")
        if graphs.folder not in self.opened:
            files = graphs.contexts if self.evidence is None and same_qairt(graphs.folder) else graphs.sources
            self.opened[graphs.folder] = {name: self.open(graphs.folder / files[name], settings) for name in files}
        return self.opened[graphs.folder]

    def open(self, path: Path, settings: Mapping[str, Any]) -> Any:
        """One session; what the execution provider does not take may go to the CPU, and placement will show it."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        options.add_session_config_entry(RECORD, "1")
        told = {key: str(settings[key]) for key in PROVIDER_OPTIONS if key in settings}
        options.add_provider_for_devices([self.device], told)
        return onnxruntime.InferenceSession(path, options)

    def weights(self, graphs: Graphs, name: str) -> dict[str, int]:
        """Bytes of weights by node of the session's graph; a context has one node, which holds them all."""
        source = weight_bytes(graphs.folder / graphs.sources[name])
        for node in [node for node in source if node.endswith(RESHAPED)]:
            # A table that the head has too is read through a Reshape, which ONNX Runtime computes ahead.
            table = node.removesuffix(RESHAPED) + TABLE
            source[table] = source.get(table, 0) + source.pop(node)
        if self.evidence is not None or not same_qairt(graphs.folder):
            return source
        return dict.fromkeys(weight_bytes(graphs.folder / graphs.contexts[name]), sum(source.values()))


def open_on_cpu(path: Path) -> Any:
    """A source graph on the CPU, its weights dequantized to float32 and its activations in float32."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    model = with_float_activations(path.read_bytes())
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def qairt() -> str:
    """Version of the QAIRT inside the execution provider."""
    from onnxruntime_qnn.build_and_package_info import qnn_version

    return str(qnn_version)


def same_qairt(package: Path) -> bool:
    """Whether the package's contexts were made by the QAIRT that is here: a context is tied to its release."""
    stated = json.loads((package / MANIFEST).read_text(encoding="utf-8"))["requires"]
    return str(stated["qairt"]) == qairt()
