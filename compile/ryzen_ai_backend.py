"""Quantized -> the hand-off for AMD's XDNA2 NPU: a Quark checkpoint, an ONNX Runtime GenAI model and the last step.

AMD's generator is in no public package and runs on Windows only, so that this package is `prepared` and no more.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
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
from compile.package import Package, check_same_weights, folder_bytes, refuse_options
from compile.quark_checkpoint import (
    CONFIG,
    EMBEDDING,
    HEAD,
    QUARK,
    Checkpoint,
    collect,
    read_checkpoint,
    write_checkpoint,
)
from export.digest import digest_file
from export.hub import GRAPH, WEIGHTS, copy_side_files
from export.strict_json import parse_object
from quantize.quantizer import QuantizedModel
from targets.errors import StageFailed
from targets.names import choose
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

# Its recipes for models that run on the NPU alone, and the longest context each takes.
RECIPES = {"full_fusion": 4096, "token_fusion": 16384, "basic": 4096, "eager": 4096}


def load_with_quark(folder: Path, checkpoint: Checkpoint) -> dict[str, int]:
    """How many weights AMD Quark reads from the checkpoint as we do, as a check of the package."""
    from compile.quark_load import check_with_quark

    with tempfile.TemporaryDirectory() as scratch:
        return {"weights_read_by_quark": check_with_quark(folder, checkpoint, Path(scratch))}


# Values of the option `quark`.
QUARK_CHECKS: dict[str, Callable[[Path, Checkpoint], dict[str, int]]] = {
    "none": lambda folder, checkpoint: {},
    "load": load_with_quark,
}


class RyzenAiBackend:
    """AMD Ryzen AI on XDNA2 (Strix, Krackan)."""

    name = "ryzen-ai"

    def tools(self) -> Mapping[str, str]:
        """Versions of the graph library, of the runtime whose kernels the graph names, and of what rounds the head."""
        return {tool: version(tool) for tool in ("onnx-ir", "onnxruntime", "nncf", "safetensors")}

    def compile_package(self, quantized: QuantizedModel, options: Mapping[str, str | int], out: Path) -> Package:
        """Write the checkpoint to `quark/`, the ONNX Runtime GenAI model to `oga/`, and the script that goes on.

        With the option `quark = "load"`, AMD Quark itself loads the checkpoint, in an environment of its own that takes
        minutes and 2 GB to install once, and has to dequantize it to the same numbers.

        Raises:
            UsageError: an unknown option, or another value of it.
            DeviceMissing: Quark is asked for and cannot be installed.
            StageFailed: a weight is not of 4 bits in groups, or it changed on the way into the checkpoint or the graph.
        """
        import onnx_ir as ir

        from compile.ryzen_ai_head import HEAD_SCHEME, round_head

        refuse_options(options, ("quark",), self.name)
        check = choose(str(options.get("quark", "none")), QUARK_CHECKS, "value of the option quark")
        (out / CHECKPOINT).mkdir()
        (out / OGA).mkdir()
        copy_side_files(quantized.folder, out)
        hub = ir.load(quantized.graph)
        round_head(hub)
        copy_side_files(quantized.folder, out / CHECKPOINT)
        config = parse_object((quantized.folder / CONFIG).read_bytes(), str(quantized.folder / CONFIG))
        made = collect(hub, {**config, "tie_word_embeddings": False})
        write_checkpoint(made, {**config, "tie_word_embeddings": False}, out / CHECKPOINT)
        checkpoint = read_checkpoint(out / CHECKPOINT)
        digest = check_same_weights(quantized, checkpoint_weights(checkpoint, quantized), self.name)
        packed, checks = write_oga(hub, quantized, out / OGA)
        check_same_graph(checkpoint, ir.load(out / OGA / GRAPH), packed)
        checks |= check(out / CHECKPOINT, checkpoint)
        context = min(quantized.facts.max_positions, RECIPES["full_fusion"])
        requires = requirements(out)
        write_manifest(out, requires, packed, context, HEAD_SCHEME)
        shutil.copyfile(Path(__file__).with_name(TEMPLATE), out / SCRIPT)
        return Package(
            folder=out,
            facts=quantized.facts,
            backend=self.name,
            scheme=quantized.scheme,
            weights_digest=digest,
            checks=checks | {"checkpoint_uint4_weights": len(checkpoint.packed)},
            settings={"accuracy_level": ACCURACY_LEVEL},
            package_bytes=folder_bytes(out),
            evidence=(Status.PREPARED,),
            next_step=(
                f"Run {SCRIPT} in the package on Windows with Ryzen AI {RELEASE} and an XDNA2 NPU: it checks release"
                " and driver, runs AMD's model_generate, and validates the bundle"
            ),
            requires=requires,
        )


def checkpoint_weights(checkpoint: Checkpoint, quantized: QuantizedModel) -> dict[str, str]:
    """Digest of every quantized weight, as far as a checkpoint's files bear it out.

    The embedding table stands there as floats: it is the one that was quantized when every float is the product of a
    code and its scale. The head stands there in 4 bits: it is the one when rounding it again gives those.
    """
    import numpy as np
    import onnx_ir as ir

    from compile.ryzen_ai_head import rounded
    from quantize.hub_weights import quantized_weights

    hub = {name: weight for name, _, weight in quantized_weights(ir.load(quantized.graph))}
    found = {name: weight.digest() for name, weight in checkpoint.packed.items() if name != HEAD}
    table, head = hub.get(EMBEDDING), hub.get(HEAD, hub.get(EMBEDDING))
    if table is not None and np.array_equal(checkpoint.floats[EMBEDDING], table.dequantize()):
        found[EMBEDDING] = table.digest()
    if head is None or rounded(head).digest() != checkpoint.packed[HEAD].digest():
        found.pop(EMBEDDING, None)
    elif HEAD in hub:
        found[HEAD] = head.digest()
    return found


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
    """Hold every 4-bit weight of the graph against the checkpoint, the head among them.

    Raises:
        StageFailed: one differs.
    """
    found = package_weights(graph, packed)
    for name, weight in checkpoint.packed.items():
        if found.get(name) != weight.digest():
            raise StageFailed(f"ryzen-ai package: {name} differs between checkpoint and graph", "report this model")


def requirements(folder: Path) -> dict[str, str]:
    """What the package is tied to on the device."""
    return {
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
        },
        "oga_weights": {node: [list(part) for part in parts] for node, parts in packed.items()},
    }
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
