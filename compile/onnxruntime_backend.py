"""Quantized -> a folder that onnxruntime_genai loads on the CPU."""

import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compile.onnxruntime_tokenizer import write_split_tokenizer
from compile.options import refuse_options
from compile.package import Package, check_same_weights, folder_bytes
from compile.tally import Tally
from export.hub import GRAPH, WEIGHTS, copy_side_files
from export.model import ModelFacts, Progress, ignore
from quantize.quantizer import QuantizedModel
from targets.errors import NotForModel, StageFailed
from targets.names import choose

if TYPE_CHECKING:
    import onnx_ir as ir

    from compile.matmul_nbits import Blocks

# int8 activations: what ONNX Runtime's fastest kernels compute with.
ACCURACY_LEVEL = 4

# What the KV cache is stored in, as the option `kv_cache` names it; the first is the default.
KV_CACHES = ("float32", "int8")

# GroupQueryAttention with the rotary embedding inside refuses other heads, but only when it runs.
HEAD_STEP = 16

# ONNX Runtime GenAI's names for architectures, where they differ from transformers'.
GENAI_TYPES = {"llama": "llama", "mistral": "mistral", "qwen2": "qwen2", "qwen3": "qwen3"}

# Which input of an operator is the one that varies; the others are codes, scales and zero points.
NOT_A_WEIGHT = {"MatMulNBits": 0, "GatherBlockQuantized": 1}


class OnnxRuntimeBackend:
    """ONNX Runtime's CPU execution provider through ONNX Runtime GenAI."""

    name = "onnxruntime"

    def tools(self) -> Mapping[str, str]:
        """Versions of the graph library and of the runtime whose kernels the lowering names."""
        return {tool: version(tool) for tool in ("onnx-ir", "onnxruntime", "onnxruntime-genai")}

    def compile_package(
        self, quantized: QuantizedModel, options: Mapping[str, str | int], out: Path, progress: Progress = ignore
    ) -> Package:
        """Lower the hub and write `model.onnx`, its weights, `genai_config.json` and the tokenizer.

        The option `kv_cache` is `float32` or `int8`. Progress counts every weight twice: laid out, and read back.

        Raises:
            UsageError: an unknown option, or another KV cache.
            NotForModel: the model's attention heads have a size that the runtime does not take.
            StageFailed: an attention was not lowered, or a weight changed.
        """
        import onnx_ir as ir

        from compile.kv_cache import cache_scales, quantize_cache
        from compile.last_position import keep_last_position
        from compile.onnxruntime_lowering import lower_for_onnxruntime
        from export.tensor_file import TensorFile

        refuse_options(options, ("kv_cache",), self.name)
        cache = str(options.get("kv_cache", KV_CACHES[0]))
        choose(cache, dict.fromkeys(KV_CACHES), "KV cache")
        refuse_heads(quantized.facts)
        model, tally = ir.load(quantized.graph), Tally(progress, 2 * len(quantized.weights))
        with TensorFile(out / WEIGHTS) as file:
            packed = lower_for_onnxruntime(model, quantized.facts, ACCURACY_LEVEL, file, joined=True, laid=tally.add)
            keep_last_position(model)
            if cache == "int8":
                quantize_cache(model, cache_scales(quantized))
            file.move(model)
        ir.save(model, out / GRAPH)
        copy_side_files(quantized.folder, out)
        write_split_tokenizer(out)
        (out / "genai_config.json").write_text(json.dumps(genai_config(out, quantized.facts), indent=2) + "\n")
        shipped = ir.load(out / GRAPH)
        checks = check_operators(shipped, quantized)
        digest = check_same_weights(quantized, package_weights(shipped, packed, tally.add), self.name)
        return Package(
            folder=out,
            facts=quantized.facts,
            backend=self.name,
            scheme=quantized.scheme,
            weights_digest=digest,
            checks=checks,
            settings={"accuracy_level": ACCURACY_LEVEL, "past_present_share_buffer": True, "kv_cache": cache},
            package_bytes=folder_bytes(out),
        )


def refuse_heads(facts: ModelFacts) -> None:
    """Refuse attention heads that the runtime would refuse on the device.

    Raises:
        NotForModel: names their size.
    """
    if facts.head_dim % HEAD_STEP:
        raise NotForModel(
            f"ONNX Runtime takes attention heads whose size is a multiple of {HEAD_STEP};"
            f" this model has {facts.head_dim}",
            "build for a target without the runtime onnxruntime, such as one with OpenVINO alone",
        )


def check_operators(model: "ir.Model", quantized: QuantizedModel) -> dict[str, int]:
    """Count the operators of the shipped graph.

    Raises:
        StageFailed: an attention, a norm or a quantized weight was left as the hub had it.
    """
    found = [node.op_type for node in model.graph]
    for left in ("Softmax", "DequantizeLinear", "RMSNormalization"):
        if left in found:
            raise StageFailed(
                f"{found.count(left)} {left} were not lowered for ONNX Runtime",
                "report this model; build for OpenVINO only",
            )
    attentions = found.count("GroupQueryAttention")
    if attentions != quantized.facts.n_layers:
        raise StageFailed(
            f"{attentions} GroupQueryAttention for {quantized.facts.n_layers} layers", "report this model"
        )
    return {
        "operators": len(found),
        "attentions": quantized.facts.n_layers,
        "attentions_fused": attentions,
        "quantized_weights": sum(quantized.counts.values()),
        "quantized_matmuls": found.count("MatMulNBits"),
    }


def package_weights(
    model: "ir.Model", packed: Mapping[str, list[tuple[str, int]]], seen: Callable[[int], None] = lambda count: None
) -> dict[str, str]:
    """Digest of every hub weight, read back from the MatMulNBits and GatherBlockQuantized of the shipped graph.

    `seen` is told of each weight that is read for the first time.
    """
    from compile.matmul_nbits import from_blocks

    digests: dict[str, str] = {}
    for node in model.graph:
        start = 0
        for name, width in packed.get(node.name or "", ()):
            seen(int(name not in digests))
            digests[name] = from_blocks(stored_blocks(node, slice(start, start + width))).digest()
            start += width
    return digests


def stored_blocks(node: "ir.Node", rows: slice) -> "Blocks":
    """Some outputs of the weight that a MatMulNBits or a GatherBlockQuantized reads."""
    import numpy as np

    from compile.matmul_nbits import Blocks
    from export.tensor_file import read_tensor

    codes, *rest = (value for position, value in enumerate(node.inputs) if position != NOT_A_WEIGHT[node.op_type])
    reshape = codes.producer() if codes is not None else None
    stored = [reshape.inputs[0] if reshape is not None else codes, *rest]
    arrays = [
        read_tensor(value.const_value)[rows] for value in stored if value is not None and value.const_value is not None
    ]
    return Blocks(
        codes=arrays[0],
        scales=arrays[1],
        zero_points=arrays[2].astype(np.uint8) if len(arrays) > 2 else None,
        bits=node.attributes["bits"].as_int(),
        block_size=node.attributes["block_size"].as_int(),
    )


def genai_config(folder: Path, facts: ModelFacts) -> dict[str, Any]:
    """What onnxruntime_genai reads to run the graph: names, sizes, token ids and search defaults (greedy)."""
    generation = json.loads((folder / "generation_config.json").read_text())
    ids = {
        key: generation[key]
        for key in ("bos_token_id", "eos_token_id", "pad_token_id")
        if generation.get(key) is not None
    }
    return {
        "model": {
            **ids,
            "context_length": facts.max_positions,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": GRAPH,
                "head_size": facts.head_dim,
                "hidden_size": facts.hidden_size,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
                "num_attention_heads": facts.n_heads,
                "num_hidden_layers": facts.n_layers,
                "num_key_value_heads": facts.n_kv_heads,
            },
            "type": GENAI_TYPES[facts.architecture],
            "vocab_size": facts.vocab_size,
        },
        "search": {"do_sample": False, "max_length": facts.max_positions, "past_present_share_buffer": True},
    }
