"""Write a package's static graphs over one file of weights, and read back what is in them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from compile.attention import find_attentions
from compile.onnxruntime_backend import package_weights
from compile.package import check_same_weights
from compile.qnn_activations import linear_weights, quantize_activations
from compile.qnn_lowering import StaticShape, lower_for_htp
from compile.qnn_rules import check_graph, label
from compile.rotary import rotary_tables
from export.hub import WEIGHTS
from quantize.activation_ranges import LinearRanges
from quantize.quantizer import QuantizedModel
from quantize.weight import QuantizedWeight
from targets.errors import StageFailed

Packed = Mapping[str, list[tuple[str, int]]]
NO_RANGES: Mapping[str, LinearRanges] = {}


def write_sources(
    quantized: QuantizedModel,
    context: int,
    sizes: Mapping[str, int],
    out: Path,
    ranges: Mapping[str, LinearRanges] = NO_RANGES,
) -> Packed:
    """Write `<session>.onnx` for each session and the tokens it takes at once.

    What the first graph stores in the file of weights the others read from there: the graphs differ in shapes only.
    Linear layers with `ranges`, by the name of the weight, get 16-bit integer activations.

    Returns:
        For every MatMulNBits by node name the hub weights it holds, each with its number of outputs.

    Raises:
        StageFailed: a graph breaks a rule of the HTP.
    """
    hub = ir.load(quantized.graph)
    positions = context + max(sizes.values())
    tables = rotary_tables(hub, find_attentions(hub)[0], positions)
    packed: Packed = {}
    stored: dict[str, ir.TensorProtocol] = {}
    for session, tokens in sizes.items():
        model = ir.load(quantized.graph)
        packed = lower_for_htp(model, quantized.facts, StaticShape(tokens, context), tables)
        if ranges:
            quantize_activations(model, ranges)
        model.graph.name = session
        check_graph(model, session)
        path = out / f"{session}.onnx"
        if stored:
            share(model.graph, stored)
            ir.save(model, path)
            continue
        ir.save(model, path, external_data=WEIGHTS)
        saved = ir.load(path).graph.initializers
        stored = {
            name: value.const_value for name, value in saved.items() if isinstance(value.const_value, ir.ExternalTensor)
        }
    return packed


def share(graph: ir.Graph, stored: Mapping[str, ir.TensorProtocol]) -> None:
    """Let initializers read the tensors of the same name and shape that are stored already."""
    for name, value in graph.initializers.items():
        other = stored.get(name)
        if other is not None and value.const_value is not None and list(other.shape) == list(value.const_value.shape):
            value.const_value = other


def check_sources(quantized: QuantizedModel, packed: Packed, out: Path) -> tuple[dict[str, int], str]:
    """Count the operators of the prefill graph, and read every weight of both graphs back from the files.

    Returns:
        The counts, and the digest over all weights.

    Raises:
        StageFailed: an attention was not lowered, or a weight changed.
    """
    digest = ""
    counts: dict[str, int] = {}
    for session in ("decode", "prefill"):
        model = ir.load(out / f"{session}.onnx")
        found = [node.op_type for node in model.graph]
        layers = quantized.facts.n_layers
        if found.count("Attention") != layers or "Softmax" in found:
            raise StageFailed(
                f"{found.count('Attention')} Attention for {layers} layers in the {session} graph", "report this model"
            )
        integer = linear_weights(model.graph)
        weights = {**package_weights(model, packed), **integer, **embedding_weights(model.graph)}
        digest = check_same_weights(quantized, weights, "qnn")
        counts = {
            "operators": len(found),
            "attentions": layers,
            "attentions_fused": found.count("Attention"),
            "quantized_weights": sum(quantized.counts.values()),
            "quantized_matmuls": found.count("MatMulNBits") + len(integer),
            **({"integer_matmuls": len(integer)} if integer else {}),
        }
    return counts, digest


def embedding_weights(graph: ir.Graph) -> dict[str, str]:
    """Digest of each embedding table, as the graph gathers it: codes behind a Reshape, scales and zero points apart."""
    found: dict[str, str] = {}
    for node in graph:
        if node.op_type != "DequantizeLinear" or not (node.name or "").endswith("/table"):
            continue
        name = (node.name or "").removesuffix("/table")
        reshape = node.inputs[0].producer() if node.inputs[0] is not None else None
        codes = numbers(reshape.inputs[0] if reshape is not None else None)
        scales = numbers(graph.initializers.get(f"{name}.Mul.rows"))
        shift = graph.initializers.get(f"{name}.Sub.rows")
        zero_points = None if shift is None else numbers(shift).astype(np.int16)
        stored = codes.reshape(len(codes), -1).astype(np.int16)
        centre = zero_points if zero_points is not None else numbers(node.inputs[2]).astype(np.int16)
        found[name] = QuantizedWeight(stored - centre, scales.astype(np.float32), zero_points, 8).digest()
    return found


def numbers(value: ir.Value | None) -> np.ndarray:
    """What an initializer holds.

    Raises:
        StageFailed: it is missing.
    """
    if value is None or value.const_value is None:
        raise StageFailed("an embedding table of the qnn package is not stored", "report this model")
    return value.const_value.numpy()


def check_contexts(contexts: Sequence[Path]) -> None:
    """Refuse compiled graphs with anything left outside their context.

    Raises:
        StageFailed: names the operators that the compiler left to the CPU.
    """
    for path in contexts:
        outside = left_outside(ir.load(path).graph)
        if outside:
            raise StageFailed(
                f"{path.name} leaves {len(outside)} operators to the CPU: {', '.join(outside)}",
                "lower them to operators that the HTP takes",
            )


def write_control(folder: Path) -> Path:
    """A graph that the HTP takes for certain, to tell a refused graph from a compiler that does not run."""
    given = ir.Value(name="x", shape=ir.Shape((1, 8)), type=ir.TensorType(ir.DataType.FLOAT))
    twice = ir.node("Add", [given, given], name="control")
    twice.outputs[0].name = "y"
    twice.outputs[0].type, twice.outputs[0].shape = given.type, given.shape
    graph = ir.Graph([given], twice.outputs, nodes=[twice], opset_imports={"": 23}, name="control")
    path = folder / "control.onnx"
    ir.save(ir.Model(graph, ir_version=10), path)
    return path


def left_outside(graph: Iterable[ir.Node]) -> list[str]:
    """Type and name of every node that is not a compiled context."""
    return [label(node) for node in graph if node.op_type != "EPContext"]
