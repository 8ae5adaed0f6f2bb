"""Give the decoder's linear layers of a static graph 16-bit integer activations, as Qualcomm's own recipes do.

x -> MatMulNBits -> y   becomes   x -> Q -> DQ -> MatMul(DQ(codes)) -> Q -> DQ -> y

with uint16 activations over calibrated ranges, and the weight's codes as int4 or int8 without a zero point: the HTP
then multiplies integers. The head, the norms, the rotary embedding and the attention stay in float16: the head's table
is shared with the embedding, and its output is what the user sees.
"""

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from compile.matmul_nbits import Blocks, from_blocks
from compile.onnxruntime_backend import stored_blocks
from quantize.activation_ranges import LinearRanges, Range
from quantize.hub_weights import add_initializer
from quantize.weight import QuantizedWeight
from targets.errors import StageFailed

# Ends of the names of nodes: what the validation takes out to see the weights alone, and what dequantizes a weight.
ACTIVATION, WEIGHT = "/activation", "/weight"

LEVELS = 65535
SMALLEST_RANGE = 1e-30  # of a tensor that is zero on all of the calibration text
CODES = {4: ml_dtypes.int4, 8: np.int8}
WHOLE = slice(None)


def quantize_activations(model: ir.Model, ranges: Mapping[str, LinearRanges]) -> list[str]:
    """Rewrite every MatMulNBits of `model` in place whose weight has a range; the names of those weights.

    Args:
        model: a graph as `compile.qnn_lowering` makes it.
        ranges: of the linear layers' inputs and outputs, by the name of the weight.

    Raises:
        StageFailed: a layer of `ranges` is not in the graph, or a weight of it has a zero point.
    """
    graph = model.graph
    done: list[str] = []
    inputs: dict[ir.Value, ir.Value] = {}
    for node in [node for node in graph if node.op_type == "MatMulNBits"]:
        name = (node.name or "").removesuffix("/MatMulNBits")
        hidden, found = node.inputs[0], ranges.get(name)
        if found is None or hidden is None:
            continue
        if hidden not in inputs:
            inputs[hidden] = round_trip(graph, node, hidden, found.inputs, f"{name}/input")
        weight = dequantized(graph, node, name, stored_blocks(node, WHOLE))
        matmul = ir.node("MatMul", [inputs[hidden], weight], name=f"{name}/MatMul")
        graph.insert_before(node, matmul)
        (old,), (new,) = node.outputs, matmul.outputs
        new.type, new.shape = old.type, old.shape
        result = round_trip(graph, node, new, found.outputs, f"{name}/output")
        old.replace_all_uses_with(result, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        done.append(name)
    missing = sorted(set(ranges) - set(done))
    if missing:
        raise StageFailed(f"no linear layer {missing[0]} in the graph to quantize", "measure the ranges again")
    common.RemoveUnusedNodesPass()(model)
    return done


def round_trip(graph: ir.Graph, before: ir.Node, value: ir.Value, limits: Range, name: str) -> ir.Value:
    """`value` as uint16 and back, over `limits`; inserted in front of `before`."""
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    scale = np.float32(max(high - low, SMALLEST_RANGE) / LEVELS)
    shift = np.uint16(round(-low / float(scale)))
    unit = [scalar(graph, f"{name}.scale", scale), scalar(graph, f"{name}.zero_point", shift)]
    quantize = ir.node("QuantizeLinear", [value, *unit], name=f"{name}/QuantizeLinear{ACTIVATION}")
    back = ir.node("DequantizeLinear", [quantize.outputs[0], *unit], name=f"{name}/DequantizeLinear{ACTIVATION}")
    graph.insert_before(before, [quantize, back])
    quantize.outputs[0].type, quantize.outputs[0].shape = ir.TensorType(ir.DataType.UINT16), value.shape
    back.outputs[0].type, back.outputs[0].shape = value.type, value.shape
    return back.outputs[0]


def dequantized(graph: ir.Graph, before: ir.Node, name: str, blocks: Blocks) -> ir.Value:
    """The weight [in, out] behind a DequantizeLinear without a zero point.

    A channel's one scale is written for each of its blocks, as for MatMulNBits: of channel-wise weights the HTP
    misreads negative scales, which NNCF uses to reach the code -128.

    Raises:
        StageFailed: the weight has zero points, which the HTP misreads.
    """
    if blocks.zero_points is not None:
        raise StageFailed(
            f"{name} has zero points, which the HTP misreads beside 16-bit activations", "choose a symmetric scheme"
        )
    codes = from_blocks(blocks).codes.T
    stored = [
        add_initializer(graph, f"{name}.codes", codes.astype(CODES[blocks.bits])),
        add_initializer(graph, f"{name}.scales", blocks.scales.T),
    ]
    attributes = {"axis": 0, "block_size": blocks.block_size}
    node = ir.node("DequantizeLinear", stored, attributes, name=f"{name}{WEIGHT}")
    node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(codes.shape)
    graph.insert_before(before, node)
    return node.outputs[0]


def scalar(graph: ir.Graph, name: str, number: np.generic) -> ir.Value:
    """Register a number without dimensions as the initializer `name`."""
    tensor = ir.tensor(np.array(number), name=name)
    value = ir.Value(name=name, shape=ir.Shape(()), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def linear_weights(graph: ir.Graph) -> dict[str, str]:
    """Digest of every weight behind a DequantizeLinear of ours, by name."""
    found: dict[str, str] = {}
    for node in graph:
        if node.op_type != "DequantizeLinear" or not (node.name or "").endswith(WEIGHT):
            continue
        tensors = [value.const_value for value in node.inputs if value is not None]
        codes, scales = (tensor.numpy() for tensor in tensors if tensor is not None)
        bits = 4 if "int4" in str(codes.dtype) else 8
        weight = QuantizedWeight(codes.T.astype(np.int16), np.ascontiguousarray(scales.T), None, bits)
        found[(node.name or "").removesuffix(WEIGHT)] = weight.digest()
    return found
