"""Quantized -> the folder that openvino_genai.LLMPipeline loads on an Intel GPU."""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from compile.openvino_backend import MODEL, OpenVinoBackend
from compile.openvino_gpu_range import largest_activation
from compile.options import refuse_options
from compile.package import Package, folder_bytes
from export.digest import digest_file
from quantize.quantizer import QuantizedModel
from targets.errors import StageFailed
from targets.status import Status

DEVICE = "GPU"
WEIGHTS = "openvino_model.bin"
MANIFEST = "gpu.json"
CACHE = "cache"
SCRIPTS = ("openvino_gpu_finalize.py", "openvino_gpu_finalize.sh", "openvino_gpu_finalize.ps1")

# Activations and KV cache in float16, nothing rounded to int8 while it runs. ATTENTION_BACKEND keeps the pipeline on
# the graph whose fidelity is measured.
SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f16",
    "KV_CACHE_PRECISION": "f16",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    "PERFORMANCE_HINT": "LATENCY",
    "ATTENTION_BACKEND": "SDPA",
}
PIPELINE_ONLY = frozenset({"ATTENTION_BACKEND"})


class OpenVinoGpuBackend:
    """OpenVINO's GPU plugin through OpenVINO GenAI."""

    name = "openvino-gpu"

    def tools(self) -> Mapping[str, str]:
        """Versions of the converter, the runtime and the tokenizer converter."""
        return OpenVinoBackend().tools()

    def compile_package(self, quantized: QuantizedModel, options: Mapping[str, str | int], out: Path) -> Package:
        """Write the stateful IR, its GPU properties and the script that compiles it on the device.

        Where this machine has an Intel GPU the plugin compiles it here as well, as proof; kernels are tied to device
        and driver, so that none are shipped.

        Raises:
            UsageError: an option; this back end has none.
            StageFailed: a fusion or a weight was lost, an activation does not fit float16, or the plugin refused.
        """
        refuse_options(options, (), self.name)
        largest = largest_activation(quantized)
        base = OpenVinoBackend(joined=False).compile_package(quantized, {}, out)
        device = compile_here(out / MODEL)
        requires = {
            "openvino": version("openvino"),
            "device": DEVICE,
            "weights_sha256": digest_file(out / WEIGHTS),
        } | ({"compiled_for": device} if device else {})
        manifest = {
            "requires": requires,
            "settings": SETTINGS,
            "cache": CACHE,
            "largest_activation": {"tensor": largest.tensor, "value": round(largest.value, 3)},
            "weights_digest": base.weights_digest,
        }
        (out / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        for script in SCRIPTS:
            shutil.copyfile(Path(__file__).with_name(script), out / script.replace("openvino_gpu_", ""))
        return replace(
            base,
            backend=self.name,
            settings=dict(SETTINGS),
            checks=base.checks | {"largest_activation": math.ceil(largest.value)},
            evidence=(Status.COMPILED if device else Status.PREPARED,),
            next_step=(
                "Run finalize.sh (Linux) or finalize.ps1 (Windows) in the package on a machine with an Intel GPU and"
                " its driver: it compiles the model into a cache, asks it a question and validates the bundle"
            ),
            requires=requires,
            package_bytes=folder_bytes(out),
        )


def compile_here(model: Path) -> str | None:
    """The name of this machine's Intel GPU, whose plugin took the model, or None where there is none.

    Raises:
        StageFailed: there is one, and its plugin refuses.
    """
    import openvino as ov

    core = ov.Core()
    if not any(name.split(".")[0] == DEVICE for name in core.available_devices):
        return None
    properties = {name: value for name, value in SETTINGS.items() if name not in PIPELINE_ONLY}
    try:
        core.compile_model(model, DEVICE, properties)
    except RuntimeError as error:
        raise StageFailed(f"OpenVINO's GPU plugin refuses the model: {error}", "update the GPU's driver") from error
    return str(core.get_property(DEVICE, "FULL_DEVICE_NAME"))
