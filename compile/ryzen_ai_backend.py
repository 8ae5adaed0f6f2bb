"""Quantized -> the hand-off for AMD's XDNA2 NPU: a Quark checkpoint, an ONNX Runtime GenAI model and the last step.

AMD's generator is in no public package and runs on Windows only, so that this package is `prepared` and no more.
"""

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compile.onnxruntime_backend import (
    ACCURACY_LEVEL,
    check_operators,
    genai_config,
    package_weights,
)
from compile.onnxruntime_tokenizer import write_split_tokenizer
from compile.package import Package, folder_bytes
from compile.quark_checkpoint import QUARK, Checkpoint
from compile.ryzen_ai_options import AWQ, CHOSEN_BY, check_options, quark_option
from export.digest import digest_file
from export.hub import GRAPH, WEIGHTS, copy_side_files
from export.model import Model
from quantize.calibration import Calibration
from quantize.quantizer import QuantizedModel
from targets.errors import StageFailed
from targets.status import Status

if TYPE_CHECKING:
    import onnx_ir as ir

CHECKPOINT, OGA = "quark", "oga"
MANIFEST = "ryzen_ai.json"
SCRIPT = "finalize.ps1"
TEMPLATE = "finalize_ryzenai.ps1"

# Ryzen AI 1.8 (documentation of July 2026): installation, OGA flow and release notes.
RELEASE = "1.8.0"
GENAI = "0.14.0"
DRIVER = "32.0.203.280"
XDNA2, XDNA1 = "1022:17F0", "1022:1502"

NEXT_STEP = (
    f"Run {SCRIPT} in the package on Windows with Ryzen AI {RELEASE} and an XDNA2 NPU: it checks release and driver,"
    " runs AMD's model_generate, and validates the bundle"
)

# Its recipes for models that run on the NPU alone, and the longest context each takes.
RECIPES = {"full_fusion": 4096, "token_fusion": 16384, "basic": 4096, "eager": 4096}


class RyzenAiBackend:
    """AMD Ryzen AI on XDNA2 (Strix, Krackan)."""

    name = "ryzen-ai"

    def tools(self) -> Mapping[str, str]:
        """Versions of the graph library, of the runtime whose kernels the graph names, and of what rounds the head."""
        return {tool: version(tool) for tool in ("onnx-ir", "onnxruntime", "safetensors")}

    def compile_package(
        self,
        quantized: QuantizedModel,
        options: Mapping[str, str | int],
        out: Path,
        model: Model | None = None,
        calibration: Calibration | None = None,
    ) -> Package:
        """Write the checkpoint to `quark/`, the ONNX Runtime GenAI model to `oga/`, and the script that goes on.

        With the option `quark = "load"`, AMD Quark itself loads the checkpoint, in an environment of its own that takes
        minutes and 2 GB to install once, and has to dequantize it to the same numbers. With `quark = "awq"` the numbers
        are Quark's own: of `quantized` only the scheme and the graph remain, and `model` and `calibration` are needed.

        Raises:
            UsageError: an unknown option, another value of it, or a recipe that Quark's AWQ does not follow.
            DeviceMissing: Quark is asked for and cannot be installed.
            TimedOut: Quark did not end.
            StageFailed: a weight is not of 4 bits in groups, it changed on the way into the checkpoint or the graph, or
                Quark failed.
        """
        import onnx_ir as ir

        from compile.ryzen_ai_checkpoint import quark_inputs, write_ours, write_theirs
        from compile.ryzen_ai_head import HEAD_SCHEME, round_head

        check_options(options, quantized.recipe or quantized.scheme)
        asked = quark_option(options)
        (out / CHECKPOINT).mkdir()
        (out / OGA).mkdir()
        for folder in (out, out / CHECKPOINT):
            copy_side_files(quantized.folder, folder)
        hub = ir.load(quantized.graph)
        round_head(hub)
        if asked == AWQ:
            written = write_theirs(hub, quantized, quark_inputs(model, calibration), out / CHECKPOINT)
        else:
            written = write_ours(hub, quantized, out / CHECKPOINT, asked)
        packed, checks = write_oga(hub, quantized, out / OGA)
        check_same_graph(written.checkpoint, ir.load(out / OGA / GRAPH), packed)
        context = min(quantized.facts.max_positions, RECIPES["full_fusion"])
        requires = requirements(out, written.chosen_by)
        write_manifest(out, requires, packed, context, HEAD_SCHEME)
        shutil.copyfile(Path(__file__).with_name(TEMPLATE), out / SCRIPT)
        return Package(
            folder=out,
            facts=quantized.facts,
            backend=self.name,
            scheme=quantized.scheme,
            weights_digest=written.weights_digest,
            checks=checks | written.checks,
            settings={"accuracy_level": ACCURACY_LEVEL},
            package_bytes=folder_bytes(out),
            evidence=(Status.PREPARED,),
            next_step=NEXT_STEP,
            requires=requires,
        )


def write_oga(hub: "ir.Model", quantized: QuantizedModel, out: Path) -> tuple[dict[str, list[tuple[str, int]]], Any]:
    """Lower `hub` and write the folder that onnxruntime_genai loads; the weights by node, and what was counted."""
    import onnx_ir as ir

    from compile.onnxruntime_lowering import lower_for_onnxruntime

    packed = lower_for_onnxruntime(hub, quantized.facts, ACCURACY_LEVEL)
    ir.save(hub, out / GRAPH, external_data=WEIGHTS)
    copy_side_files(quantized.folder, out)
    write_split_tokenizer(out)
    (out / "genai_config.json").write_text(json.dumps(genai_config(out, quantized.facts), indent=2) + "\n")
    return packed, check_operators(ir.load(out / GRAPH), quantized)


def check_same_graph(checkpoint: Checkpoint, graph: "ir.Model", packed: Mapping[str, list[tuple[str, int]]]) -> None:
    """Hold every 4-bit weight of the graph against the checkpoint, the head among them, and every vector.

    Raises:
        StageFailed: one differs.
    """
    from compile.ryzen_ai_adopt import check_same_floats

    check_same_floats(checkpoint, graph)
    found = package_weights(graph, packed)
    for name, weight in checkpoint.packed.items():
        if found.get(name) != weight.digest():
            raise StageFailed(f"ryzen-ai package: {name} differs between checkpoint and graph", "report this model")


def requirements(folder: Path, chosen_by: str | None) -> dict[str, str]:
    """What the package is tied to on the device, and who chose its weights where that was not the stage `quantize`."""
    return ({CHOSEN_BY: chosen_by} if chosen_by else {}) | {
        "ryzen_ai": RELEASE,
        "onnxruntime_genai": GENAI,
        "npu_driver_min": DRIVER,
        "pci_id": XDNA2,
        "refused_pci_id": XDNA1,
        "system": "Windows 11",
        "quark_format": QUARK,
        "checkpoint_sha256": digest_file(folder / CHECKPOINT / "model.safetensors"),
        "oga_sha256": digest_file(folder / OGA / WEIGHTS),
    }


def write_manifest(
    folder: Path, requires: Mapping[str, str], packed: Mapping[str, Any], context: int, head_scheme: str
) -> None:
    """Write what the script on the device and the validation read."""
    chosen_by = requires.get(CHOSEN_BY)
    weights = {"weights": f"another release may choose others: {chosen_by}"} if chosen_by else {}
    content = {
        "requires": dict(requires),
        "model_generate": {
            recipe: ["--npu", f"--{recipe}", "--input", CHECKPOINT, "--output", "generated"]
            + (["--extra_options", f"max_seq_len={longest}"] if recipe == "token_fusion" else [])
            for recipe, longest in RECIPES.items()
        },
        "recipe": "full_fusion",
        "context_tokens": context,
        "head": {"scheme": head_scheme, "why": "AMD's generator rounds a head in any other form to 4 bits itself"},
        "tied_to_release": {
            "generated": "what model_generate writes runs with this Ryzen AI release and its drivers only",
            "quark": "holds for any release that reads Quark uint4 checkpoints",
            "oga": "holds for any ONNX Runtime GenAI that has MatMulNBits and GroupQueryAttention",
            **weights,
        },
        "oga_weights": {node: [list(part) for part in parts] for node, parts in packed.items()},
    }
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
