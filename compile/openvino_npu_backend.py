"""Quantized -> the folder that openvino_genai.LLMPipeline loads on an Intel NPU, with the blob for one generation."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from compile.npu_compiler import PLATFORMS, Compiled, compile_blob, find_compiler
from compile.openvino_backend import MODEL, OpenVinoBackend
from compile.openvino_npu_shapes import npuw_properties, static_shapes
from compile.options import refuse_options
from compile.package import Package, folder_bytes
from export.digest import digest_file
from quantize.hub_weights import quantized_weights
from quantize.quantizer import QuantizedModel
from targets.errors import NotForModel, StageFailed, UsageError
from targets.legality import CHANNEL_WISE, parse_scheme
from targets.names import choose
from targets.probe import Missing
from targets.status import Status

WEIGHTS = "openvino_model.bin"
BLOB = "openvino_model.blob"
MANIFEST = "npu.json"
SCRIPTS = ("finalize_npu.py", "finalize_npu.sh", "finalize_npu.ps1")

LARGEST_FLOAT16 = 65504.0


class OpenVinoNpuBackend:
    """OpenVINO's NPU plugin through OpenVINO GenAI: the NPUW pipeline of static shapes."""

    name = "openvino-npu"

    def tools(self) -> Mapping[str, str]:
        """Versions of the converter, the runtime and the tokenizer converter."""
        return OpenVinoBackend().tools()

    def compile_package(self, quantized: QuantizedModel, options: Mapping[str, str | int], out: Path) -> Package:
        """Write the stateful IR and, where this machine has an NPU compiler, the blob for `options["npu_platform"]`.

        Raises:
            UsageError: no platform, an unknown one, or another option.
            NotForModel: the scheme's groups do not divide every weight's input channels.
            InputRefused: the model's context is too short for the NPU's static shapes.
            StageFailed: a fusion or a weight was lost, a constant does not fit float16, or the NPU compiler refused.
            TimedOut: the NPU compiler did not end.
        """
        refuse_options(options, ("npu_platform",), self.name)
        platform = platform_of(options)
        refuse_mixed_groups(quantized)
        shapes = static_shapes(quantized.facts.max_positions)
        base = OpenVinoBackend(joined=False).compile_package(quantized, {}, out)
        describe_weights(out, quantized.scheme)
        compiler = find_compiler()
        compiled = None
        if not isinstance(compiler, Missing):
            compiled = compile_blob(compiler, out / MODEL, platform, npuw_properties(shapes), out / BLOB)
        why_not = compiler if isinstance(compiler, Missing) else None
        requires = requirements(out, platform, compiled)
        write_manifest(out, requires, shapes, base.weights_digest, why_not)
        for script in SCRIPTS:
            shutil.copy(Path(__file__).with_name(script), out / script.replace("finalize_npu.", "finalize."))
        return replace(
            base,
            backend=self.name,
            settings=dict(shapes),
            checks=base.checks | ({"npu_binaries": compiled.blob.binaries} if compiled else {}),
            evidence=(Status.COMPILED if compiled else Status.PREPARED,),
            next_step=next_step(platform, why_not),
            requires=requires,
            package_bytes=folder_bytes(out),
        )


def platform_of(options: Mapping[str, str | int]) -> str:
    """The NPU generation to compile for.

    Raises:
        UsageError: none is given, or one that is not known.
    """
    given = options.get("npu_platform")
    if given is None:
        raise UsageError(
            "back end openvino-npu needs the option npu_platform",
            f'write options = {{ npu_platform = "{PLATFORMS[0]}" }}; known: {", ".join(PLATFORMS)}',
        )
    return choose(str(given), {name: name for name in PLATFORMS}, "NPU platform")


def refuse_mixed_groups(quantized: QuantizedModel) -> None:
    """Refuse weights of which some are in groups and some, whose channels no group divides, channel-wise.

    NPUW is told one form for all of them, and unpacks the weights of any other into the blob.

    Raises:
        NotForModel: names a weight that is channel-wise and its input channels.
    """
    import onnx_ir as ir

    bits, _, group_size = parse_scheme(quantized.scheme)
    if group_size == CHANNEL_WISE:
        return
    for name, _, weight in quantized_weights(ir.load(quantized.graph)):
        if weight.bits == bits and weight.group_size != group_size:
            raise NotForModel(
                f"groups of {group_size} do not divide the {weight.codes.shape[1]} input channels of {name}",
                "the NPU wants one form for all weights: a channel-wise scheme is the one for this model",
            )


def describe_weights(folder: Path, scheme: str) -> None:
    """Write into the IR how its weights are quantized, where the plugin looks for it, and check what NPUs cannot take.

    NPUW keeps channel-wise weights compressed in the prefill only when the IR says that they are (`is_cw_compressed` in
    openvino, npuw/llm_compiled_model.cpp); otherwise it unpacks them into the blob, which is then three times larger.

    Raises:
        StageFailed: a constant that float16 cannot hold, or saving changed the weights.
    """
    import openvino as ov

    bits, symmetric, group_size = parse_scheme(scheme)
    model = ov.Core().read_model(folder / MODEL)
    refuse_large_constants(model)
    place = ["nncf", "weight_compression"]
    model.set_rt_info(str(-1 if group_size == CHANNEL_WISE else group_size), [*place, "group_size"])
    model.set_rt_info(f"int{bits}_{'sym' if symmetric else 'asym'}", [*place, "mode"])
    with tempfile.TemporaryDirectory(dir=folder, prefix=".describe-") as scratch:
        ov.save_model(model, Path(scratch) / MODEL, compress_to_fp16=False)
        if digest_file(Path(scratch) / WEIGHTS) != digest_file(folder / WEIGHTS):
            raise StageFailed("saving the IR again changed its weights", "report this model")
        shutil.move(Path(scratch) / MODEL, folder / MODEL)


def refuse_large_constants(model: Any) -> None:
    """Refuse a floating-point constant that is not finite in float16, which is what the NPU computes in.

    An attention mask of float32's lowest number is one: prompts are padded on the left, a row that is masked all over
    becomes NaN, and every token comes out as id 0, without an error.

    Raises:
        StageFailed: names the constant and its largest number.
    """
    import numpy as np

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or not node.get_element_type().is_real():
            continue
        largest = np.abs(node.get_data()).max(initial=0.0)
        if not largest <= LARGEST_FLOAT16:
            raise StageFailed(
                f"constant {node.get_friendly_name()} reaches {largest:g}, which float16 on the NPU cannot hold",
                "report this model: the hub must mask with -65504",
            )


def requirements(folder: Path, platform: str, compiled: Compiled | None) -> dict[str, str]:
    """What the package is tied to on the device."""
    found = {"platform": platform, "weights_sha256": digest_file(folder / WEIGHTS)}
    if compiled is None:
        return found | {"openvino": version("openvino")}
    return found | {
        "openvino": compiled.blob.openvino,
        "npuw_serialization": compiled.blob.serialization,
        "compiler": compiled.compiler,
        "blob_sha256": compiled.blob.sha256,
        "runtime_requirements": compiled.requirements,
        "binaries_require": ", ".join(compiled.blob.requirements),
    }


def write_manifest(
    folder: Path, requires: Mapping[str, str], shapes: Mapping[str, int], weights_digest: str, why_not: Missing | None
) -> None:
    """Write what the scripts on the device read."""
    content = {
        "requires": dict(requires),
        "pipeline": dict(shapes),
        "compiled_with": npuw_properties(shapes),
        "blob": None if why_not else BLOB,
        "blob_is_reproducible": False,  # two runs of the compiler differ in a few bytes
        "no_blob_because": f"{why_not.reason}: {why_not.help}" if why_not else None,
        "weights_digest": weights_digest,
    }
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def next_step(platform: str, why_not: Missing | None) -> str:
    """What remains to be done, and by which script."""
    on_device = (
        f"run finalize.sh (Linux) or finalize.ps1 (Windows) in the package on a machine with NPU {platform}:"
        " it checks that the device fits, loads the package and validates it"
    )
    if why_not is None:
        return on_device[0].upper() + on_device[1:]
    return f"To compile the blob here: {why_not.help}, and build again. Or {on_device}"
