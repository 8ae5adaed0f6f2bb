"""ONNX Runtime's WebGPU provider: on this machine's GPU, or its own kernels on a Vulkan driver in software."""

import importlib.util
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from targets.errors import DeviceMissing, StageFailed
from targets.status import Status
from validate.graph_assignment import RECORD, read_assignment
from validate.lowered_session import LoweredSession, float32_session
from validate.measurement import Placement
from validate.onnx_graph import weight_bytes
from validate.onnxruntime_runtime import OnnxRuntimePipeline
from validate.runtime import WEIGHTS, Coverage, Pipeline
from validate.webgpu_adapter import PROVIDER, find_adapter, register_with_genai

GRAPH = "model.onnx"

# From this many tokens of a prompt on, the provider (0.4.0) takes another attention kernel, which is wrong on the
# software drivers tried (SwiftShader and lavapipe 25: lanes of 4 and of 8), the same way in every run. A GPU has lanes
# of 32 or 64; whether it is right there only a GPU can tell, and validation on the device does.
LONG_PREFILL = 32

# A software driver runs the provider's shaders thread by thread: a token takes seconds.
STAND_IN = Coverage(windows=1, prefill=24, decode=1)


class WebGpu:
    """The WebGPU plugin execution provider."""

    coverage: Coverage | None = STAND_IN

    @property
    def evidence(self) -> Status | None:
        """None on a GPU, `emulated` on a software driver, `prepared` where the provider finds neither."""
        try:
            return find_adapter().evidence
        except DeviceMissing:
            return Status.PREPARED

    def session(self, package: Path, settings: Mapping[str, Any], setting: str) -> LoweredSession:
        """The graph in float32 on the CPU, or as it ships.

        Raises:
            DeviceMissing: `DEPLOYED`, and neither a GPU nor a software driver is here.
            StageFailed: the provider did not take the graph.
        """
        if setting == WEIGHTS:
            return float32_session(package, int(settings["accuracy_level"]), {})
        return LoweredSession(webgpu_session(package))

    def pipeline(self, package: Path, settings: Mapping[str, Any]) -> Pipeline | None:
        """The generation pipeline on a GPU; a software driver is too slow to speak."""
        return None if self.evidence else WebGpuPipeline(package)

    def placement(self, package: Path, settings: Mapping[str, Any]) -> tuple[Placement, ...]:
        """Read from a session which provider each operator was given to; nothing where no session can be made."""
        if self.evidence is Status.PREPARED:
            return ()
        return (read_assignment(webgpu_session(package), "model", PROVIDER, weight_bytes(package / GRAPH)),)

    def versions(self) -> dict[str, str]:
        """Versions of the runtime's wheels, and the software driver that stands in for a GPU."""
        modules = {"onnxruntime": "onnxruntime", "onnxruntime-ep-webgpu": "onnxruntime_ep_webgpu"}
        return {name: version(name) for name, module in modules.items() if importlib.util.find_spec(module)}


class WebGpuPipeline(OnnxRuntimePipeline):
    """onnxruntime_genai's generator and tokenizer on the adapter."""

    def __init__(self, package: Path) -> None:
        register_with_genai()
        super().__init__(package)


def webgpu_session(package: Path) -> Any:
    """An `onnxruntime.InferenceSession` on the adapter, which keeps where its operators are.

    Raises:
        DeviceMissing: there is no adapter.
        StageFailed: the provider refuses the graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(RECORD, "1")
    options.add_provider_for_devices([find_adapter().device], {})
    try:
        # Without this a provider that fails is replaced by the CPU.
        return onnxruntime.InferenceSession(package / GRAPH, options, enable_fallback=0)
    except RuntimeError as error:
        raise StageFailed(
            f"the WebGPU provider does not load the graph: {error}", "update the GPU's Vulkan or Direct3D driver"
        ) from error
