"""Quantized -> a folder that openvino_genai.LLMPipeline loads."""

import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from compile.openvino_lengths import read_lengths_from_tokens, write_out_repeats
from compile.openvino_names import name_anonymous_nodes
from compile.openvino_stateful import make_stateful
from compile.openvino_tokenizer import write_tokenizers
from compile.options import refuse_options
from compile.package import Package, check_same_weights, folder_bytes
from compile.tally import Tally
from export.hub import GRAPH, copy_side_files
from export.hub import WEIGHTS as HUB_WEIGHTS
from export.lean_memory import pages_dropped
from export.model import Progress, ignore
from quantize.quantizer import QuantizedModel
from targets.errors import StageFailed

MODEL = "openvino_model.xml"
WEIGHTS = "openvino_model.bin"

# For every joined weight by name: the weights it holds, each with its rows.
Rows = dict[str, list[tuple[str, int]]]

# The plugin's default on this release and most CPUs; said, because a default may change without a word.
KV_CACHE = "u8"


class OpenVinoBackend:
    """OpenVINO's CPU plugin through OpenVINO GenAI."""

    name = "openvino"

    def __init__(self, joined: bool = True) -> None:
        """Take projections of the same hidden states together, or leave the hub's graph as it is for other plugins."""
        self.joined = joined

    def tools(self) -> Mapping[str, str]:
        """Versions of the converter, the runtime and the tokenizer converter."""
        return {tool: version(tool) for tool in ("openvino", "openvino-genai", "openvino-tokenizers", "transformers")}

    def compile_package(
        self, quantized: QuantizedModel, options: Mapping[str, str | int], out: Path, progress: Progress = ignore
    ) -> Package:
        """Convert the hub to a stateful IR and write it with the tokenizer and detokenizer IR.

        Progress counts every weight twice: converted, all at once, and read back.

        Raises:
            StageFailed: an attention or a quantized MatMul is not fused in the runtime model, or a weight changed.
        """
        import openvino as ov

        refuse_options(options, (), self.name)
        tally = Tally(progress, 2 * len(quantized.weights))
        with ThreadPoolExecutor(1) as beside:
            # Half of the time goes into a tokenizer that waits for nothing here.
            tokenizers = beside.submit(write_tokenizers, quantized.folder, out)
            joined = write_model(quantized, out, self.joined)
            tally.add(len(quantized.weights))
            with pages_dropped(out / WEIGHTS):
                shipped = ov.Core().read_model(out / MODEL)
                digest = check_same_weights(
                    quantized, package_weights(shipped, quantized, joined, tally.add), self.name
                )
                checks = check_runtime_model(shipped, quantized, joined)
            tokenizers.result()
        copy_side_files(quantized.folder, out)
        return Package(
            folder=out,
            facts=quantized.facts,
            backend=self.name,
            scheme=quantized.scheme,
            weights_digest=digest,
            checks=checks,
            settings={"ATTENTION_BACKEND": "SDPA", "KV_CACHE_PRECISION": KV_CACHE},
            package_bytes=folder_bytes(out),
        )


def write_model(quantized: QuantizedModel, out: Path, joined: bool) -> Rows:
    """Convert the hub to a stateful IR and write it; the weights go from file to file.

    Returns:
        What each weight holds that was joined from several.
    """
    import openvino as ov

    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        graph, rows = join_hub(quantized.graph, Path(scratch)) if joined else (quantized.graph, {})
        with pages_dropped(graph.parent / HUB_WEIGHTS):
            model = ov.convert_model(graph)  # core.read_model leaves decomposed attention unfused
            make_stateful(model)
            if not joined:
                read_lengths_from_tokens(model)
                write_out_repeats(model)
            name_anonymous_nodes(model)
            model.set_rt_info("tapeout", ["producer"])
            # Scales stay float32: the other runtime multiplies by the same numbers.
            ov.save_model(model, out / MODEL, compress_to_fp16=False)
    return rows


def join_hub(graph: Path, out: Path) -> tuple[Path, Rows]:
    """Write the hub to `out` with its projections joined: the new graph, and what each joined weight holds."""
    import onnx_ir as ir

    from compile.joined_projections import join_projections

    hub = ir.load(graph)
    rows = join_projections(hub)
    with pages_dropped(graph.parent / HUB_WEIGHTS):
        ir.save(hub, out / GRAPH, external_data=HUB_WEIGHTS)  # one tensor at a time
    return out / GRAPH, rows


def check_runtime_model(model: Any, quantized: QuantizedModel, joined: Rows) -> dict[str, int]:
    """Compile for the CPU and count what became of attentions and quantized weights, some of them `joined`.

    Raises:
        StageFailed: an attention without its KV cache, or a quantized weight that is multiplied in floating point.
    """
    import openvino as ov

    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    nodes = compiled.get_runtime_model().get_ordered_ops()
    attentions = [node for node in nodes if layer_type(node) == "ScaledDotProductAttention"]
    fused = [node for node in attentions if len(sources(node, "MemoryInput")) == 2]
    products = [node for node in nodes if layer_type(node) in {"FullyConnected", "MatMul"} and has_stored_weight(node)]
    compressed = [node for node in products if weight_type(node) in {"i4", "u4", "i8", "u8"}]
    facts = quantized.facts
    expected = sum(quantized.counts.values()) + (0 if facts.tied_embeddings else -1)  # an untied table is only gathered
    expected -= sum(len(held) - 1 for held in joined.values())
    if len(fused) != facts.n_layers:
        raise StageFailed(
            f"OpenVINO fused {len(fused)} of {facts.n_layers} attentions with their KV cache",
            "report this model: its attention is written in a form the CPU plugin does not recognise",
        )
    if len(compressed) < expected or len(products) > len(compressed):
        raise StageFailed(
            f"OpenVINO runs {len(compressed)} of {expected} quantized weights as compressed FullyConnected"
            f" and {len(products) - len(compressed)} in floating point",
            f"choose another scheme than {quantized.scheme}",
        )
    return {
        "operators": len(nodes),
        "attentions": facts.n_layers,
        "attentions_fused": len(fused),
        "quantized_weights": sum(quantized.counts.values()),
        "quantized_matmuls": len(compressed),
    }


def runtime_info(node: Any, key: str) -> str:
    """One entry of a runtime node's annotations."""
    value = node.get_rt_info()[key]
    return str(value if isinstance(value, str) else value.astype(str))


def layer_type(node: Any) -> str:
    """The plugin's name for what the node does."""
    return runtime_info(node, "layerType")


def sources(node: Any, kind: str) -> list[Any]:
    """Producers of the node's inputs that are of one kind."""
    return [port.get_node() for port in node.input_values() if layer_type(port.get_node()) == kind]


def has_stored_weight(node: Any) -> bool:
    """Whether the second operand is a constant of the package, rather than another result."""
    return layer_type(node.input_value(1).get_node()) == "Const"


def weight_type(node: Any) -> str:
    """The type the plugin keeps the second operand in (`i4`, `u8`, `f32`, ...)."""
    return str(node.input_value(1).get_element_type().get_type_name())


def package_weights(
    model: Any, quantized: QuantizedModel, joined: Rows, seen: Callable[[int], None] = lambda count: None
) -> dict[str, str]:
    """Digest of every quantized weight, read back from the constants of the shipped IR; `seen` is told of each."""
    from compile.openvino_weights import read_weights, rows_of

    digests: dict[str, str] = {}
    for name, weight in read_weights(model, {*quantized.weights, *joined}):
        start = 0
        for part, count in joined.get(name, [(name, len(weight.codes))]):
            digests[part] = rows_of(weight, slice(start, start + count)).digest()
            start += count
            seen(1)
    return digests
