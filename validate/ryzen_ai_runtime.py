"""AMD Ryzen AI: the checkpoint's weights on this CPU, and, after `finalize.ps1`, what AMD's generator made of them."""

import importlib.util
import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.matmul_nbits import concatenate, to_blocks
from compile.quark_checkpoint import read_checkpoint
from quantize.weight import QuantizedWeight
from targets.errors import DeviceMissing
from targets.status import Status
from validate.lowered_session import LoweredSession, float32_session
from validate.measurement import Placement
from validate.onnxruntime_runtime import OnnxRuntimePipeline, OnnxRuntimeSession
from validate.runtime import WEIGHTS, Coverage

CHECKPOINT, OGA, GENERATED, MANIFEST = "quark", "oga", "generated", "ryzen_ai.json"
INSTALLATION = "RYZEN_AI_INSTALLATION_PATH"


class RyzenAi:
    """XDNA2 through AMD's build of ONNX Runtime GenAI."""

    coverage: Coverage | None = None

    @property
    def evidence(self) -> Status | None:
        """Nothing stands in for this NPU: without AMD's installation its package stays prepared."""
        installed = os.environ.get(INSTALLATION) and importlib.util.find_spec("onnxruntime_genai")
        return None if installed else Status.PREPARED

    def session(
        self, package: Path, settings: Mapping[str, Any], setting: str
    ) -> "LoweredSession | OnnxRuntimeSession":
        """The checkpoint's weights in float32 on the CPU, or the generated model on the NPU.

        Raises:
            DeviceMissing: `DEPLOYED`, before the generator ran or without AMD's installation.
        """
        if setting == WEIGHTS:
            return float32_session(package / OGA, int(settings["accuracy_level"]), checkpoint_blocks(package))
        return OnnxRuntimeSession(self.generated(package))

    def pipeline(self, package: Path, settings: Mapping[str, Any]) -> OnnxRuntimePipeline | None:
        """The generated model as a product would load it; None where it cannot run."""
        return None if self.evidence else OnnxRuntimePipeline(self.generated(package))

    def placement(self, package: Path, settings: Mapping[str, Any]) -> tuple[Placement, ...]:
        """Nothing: AMD's runtime does not report through ONNX Runtime GenAI which operators the NPU got."""
        return ()

    def versions(self) -> dict[str, str]:
        """Versions of ONNX Runtime and, on the device, of AMD's release."""
        found = {"onnxruntime": version("onnxruntime")} if importlib.util.find_spec("onnxruntime") else {}
        release = os.environ.get(INSTALLATION)
        return found | ({"ryzen-ai": Path(release).name} if release else {})

    def generated(self, package: Path) -> Path:
        """The folder that AMD's generator wrote.

        Raises:
            DeviceMissing: it did not run yet, or this is not the device.
        """
        folder = package / GENERATED
        if self.evidence or not (folder / "genai_config.json").exists():
            raise DeviceMissing(
                "nothing here runs a model on an AMD NPU",
                "run finalize.ps1 in the package on Windows with Ryzen AI and an XDNA2 NPU",
            )
        return folder


def checkpoint_blocks(package: Path) -> dict[str, NDArray[Any]]:
    """The initializers of the graph in `oga/`, made anew from the weights of the checkpoint in `quark/`.

    The embedding table is left to the graph: in the checkpoint it is floating point.
    """
    weights = read_checkpoint(package / CHECKPOINT).packed
    nodes = json.loads((package / MANIFEST).read_text(encoding="utf-8"))["oga_weights"]
    found: dict[str, NDArray[Any]] = {}
    for node, parts in nodes.items():
        names = [name for name, _ in parts]
        if all(name in weights for name in names):
            found |= initializers(node.rsplit("/", 1)[0], [weights[name] for name in names])
    return found


def initializers(stem: str, weights: list[QuantizedWeight]) -> dict[str, NDArray[Any]]:
    """Codes, scales and zero points of one MatMulNBits over the outputs of `weights`, by the graph's names for them."""
    blocks = concatenate([to_blocks(weight) for weight in weights])
    arrays = {"codes": blocks.codes, "scales": blocks.scales, "zero_points": blocks.zero_points}
    return {f"{stem}.blocks.{kind}": np.ascontiguousarray(each) for kind, each in arrays.items() if each is not None}
