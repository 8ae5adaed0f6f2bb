"""OpenVINO on an Intel GPU: measured there; elsewhere the package's weights in float32 on the CPU, and no more."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from targets.errors import DeviceMissing
from targets.status import Status
from validate.measurement import Placement
from validate.openvino_runtime import (
    FLOAT32,
    MODEL,
    PIPELINE_ONLY,
    OpenVinoPipeline,
    OpenVinoSession,
    read_placement,
)
from validate.runtime import WEIGHTS, Coverage

DEVICE = "GPU"


class OpenVinoGpu:
    """The GPU plugin. The CPU plugin's float16 is not the GPU's, so nothing stands in for it."""

    coverage: Coverage | None = None

    @property
    def evidence(self) -> Status | None:
        """None where OpenVINO finds an Intel GPU; elsewhere the package stays prepared."""
        import openvino as ov

        return None if DEVICE in {name.split(".")[0] for name in ov.Core().available_devices} else Status.PREPARED

    def session(self, package: Path, settings: Mapping[str, Any], setting: str) -> OpenVinoSession:
        """The model in float32 on the CPU, or as it ships on the GPU.

        Raises:
            DeviceMissing: `DEPLOYED`, and no Intel GPU is here.
        """
        if setting == WEIGHTS:
            return OpenVinoSession(package, FLOAT32)
        self.require_device()
        return GpuSession(package, plugin_properties(settings))

    def pipeline(self, package: Path, settings: Mapping[str, Any]) -> OpenVinoPipeline | None:
        """The pipeline on the GPU; None where there is none."""
        return None if self.evidence else GpuPipeline(package, settings)

    def placement(self, package: Path, settings: Mapping[str, Any]) -> tuple[Placement, ...]:
        """Where the compiled model runs; nothing without a GPU to ask."""
        if self.evidence:
            return ()
        return (read_placement(compile_for_gpu(package, plugin_properties(settings)), "model", DEVICE),)

    def versions(self) -> dict[str, str]:
        """Versions of the runtime's wheels."""
        return {name: version(name) for name in ("openvino", "openvino-genai", "openvino-tokenizers")}

    def require_device(self) -> None:
        """Refuse to go on without an Intel GPU.

        Raises:
            DeviceMissing: there is none.
        """
        if self.evidence:
            raise DeviceMissing(
                "OpenVINO finds no Intel GPU on this machine",
                "run finalize.sh or finalize.ps1 in the package on a machine with one and its driver",
            )


class GpuSession(OpenVinoSession):
    """A stateful decoder on the GPU, one sequence."""

    def __init__(self, package: Path, properties: Mapping[str, Any]) -> None:
        self.request = compile_for_gpu(package, properties).create_infer_request()
        self.reset()


class GpuPipeline(OpenVinoPipeline):
    """openvino_genai.LLMPipeline on the GPU."""

    def __init__(self, package: Path, settings: Mapping[str, Any]) -> None:
        import openvino_genai

        self.pipeline = openvino_genai.LLMPipeline(str(package), DEVICE, **settings)


def compile_for_gpu(package: Path, properties: Mapping[str, Any]) -> Any:
    """The package's model, compiled by the GPU plugin."""
    import openvino as ov

    return ov.Core().compile_model(package / MODEL, DEVICE, dict(properties))


def plugin_properties(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The properties that a compiled model takes."""
    return {name: value for name, value in settings.items() if name not in PIPELINE_ONLY}
