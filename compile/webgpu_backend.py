"""Quantized -> a folder that ONNX Runtime's WebGPU execution provider runs, on an AMD or any other GPU."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from compile.onnxruntime_backend import check_operators, genai_config, package_weights
from compile.onnxruntime_tokenizer import write_split_tokenizer
from compile.options import refuse_options
from compile.package import Package, check_same_weights, folder_bytes
from export.hub import GRAPH, WEIGHTS, copy_side_files
from quantize.quantizer import QuantizedModel
from targets.status import Status

# Float activations: with level 4 the provider rounds them to int8 where a matrix allows it.
ACCURACY_LEVEL = 1

# The release of the provider whose kernels the graph was tried on.
PROVIDER = "0.4.0"


class WebGpuBackend:
    """ONNX Runtime's WebGPU plugin execution provider."""

    name = "onnxruntime-webgpu"

    def tools(self) -> Mapping[str, str]:
        """Versions of the graph library and of the runtime whose kernels the lowering names."""
        return {tool: version(tool) for tool in ("onnx-ir", "onnxruntime")}

    def compile_package(self, quantized: QuantizedModel, options: Mapping[str, str | int], out: Path) -> Package:
        """Lower the hub and write `model.onnx`, its weights, `genai_config.json` and the tokenizer.

        The provider makes its shaders when it loads a graph, for the GPU it finds: nothing can be compiled ahead. Its
        compile-only sessions on a virtual device end the process as soon as a graph has weights (0.4.0), so that they
        are no check; validation runs the provider's own kernels where a Vulkan driver is, in software if need be.

        Raises:
            UsageError: an option; this back end has none.
            StageFailed: an attention was not lowered, or a weight changed.
        """
        import onnx_ir as ir

        from compile.onnxruntime_lowering import lower_for_onnxruntime

        refuse_options(options, (), self.name)
        model = ir.load(quantized.graph)
        packed = lower_for_onnxruntime(model, quantized.facts, ACCURACY_LEVEL)
        ir.save(model, out / GRAPH, external_data=WEIGHTS)
        copy_side_files(quantized.folder, out)
        write_split_tokenizer(out)
        config = webgpu_config(genai_config(out, quantized.facts))
        (out / "genai_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        shipped = ir.load(out / GRAPH)
        checks = check_operators(shipped, quantized)
        return Package(
            folder=out,
            facts=quantized.facts,
            backend=self.name,
            scheme=quantized.scheme,
            weights_digest=check_same_weights(quantized, package_weights(shipped, packed), self.name),
            checks=checks,
            settings={"accuracy_level": ACCURACY_LEVEL},
            package_bytes=folder_bytes(out),
            evidence=(Status.PREPARED,),
            next_step=(
                "On a machine with the GPU and its Vulkan, Direct3D 12 or Metal driver:"
                f" pip install onnxruntime-ep-webgpu=={PROVIDER}, then tapeout validate BUNDLE"
            ),
            requires={"onnxruntime": version("onnxruntime"), "onnxruntime-ep-webgpu": PROVIDER},
        )


def webgpu_config(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of ONNX Runtime GenAI, asking for WebGPU."""
    decoder = config["model"]["decoder"]
    asking = {**decoder["session_options"], "provider_options": [{"webgpu": {}}]}
    return {**config, "model": {**config["model"], "decoder": {**decoder, "session_options": asking}}}
