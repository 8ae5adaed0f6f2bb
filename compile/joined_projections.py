"""Join the hub's projections that read the same hidden states: q, k and v as one MatMul, gate and up as another.

A runtime that meets a MatMul rounds or repacks its activations and wakes its threads; at one token that costs a small
model as much as some of the products. The joined weight is the weights one below the other, to the bit, and a Split
gives each reader its own outputs.
"""

from collections import defaultdict

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from export.tensor_file import read_tensor
from quantize.hub_weights import SUFFIX, add_initializer, is_quantized, weight_name

Rows = dict[str, list[tuple[str, int]]]


def join_projections(hub: ir.Model) -> Rows:
    """Rewrite a quantized hub in place.

    Returns:
        For every joined weight by name: the weights it holds, each with its rows.
    """
    alike: dict[tuple[ir.Value | None, str], list[tuple[ir.Node, ir.Node]]] = defaultdict(list)
    for matmul in hub.graph:
        dequantize = is_quantized(matmul.inputs[1]) if matmul.op_type == "MatMul" else None
        if dequantize is not None:
            alike[matmul.inputs[0], storage(dequantize)].append((matmul, dequantize))
    joined = dict(join(hub.graph, pairs) for pairs in alike.values() if len(pairs) > 1)
    common.RemoveUnusedNodesPass()(hub)
    common.TopologicalSortPass()(hub)
    return joined


def storage(dequantize: ir.Node) -> str:
    """What two weights must have in common to be stored as one: types, inputs, groups, and rank of their scales."""
    values = [value for value in dequantize.inputs if value is not None]
    kinds = [(str(value.dtype), list(value.shape or ())[1:]) for value in values]
    attributes = {name: attribute.value for name, attribute in dequantize.attributes.items()}
    return f"{kinds} {sorted(attributes.items())}"


def join(graph: ir.Graph, pairs: list[tuple[ir.Node, ir.Node]]) -> tuple[str, list[tuple[str, int]]]:
    """Put one product in place of several; returns its weight's name and what it holds."""
    matmuls, weights = [matmul for matmul, _ in pairs], [dequantize for _, dequantize in pairs]
    held = [(weight_name(weight), rows_of(weight)) for weight in weights]
    name = "+".join(part for part, _ in held)
    dequantize = ir.node(
        "DequantizeLinear",
        [below_each_other(graph, weights, position, name) for position in range(len(weights[0].inputs))],
        dict(weights[0].attributes),
        name=f"{name}{SUFFIX}",
    )
    transpose = ir.node("Transpose", [dequantize.outputs[0]], {"perm": [1, 0]}, name=f"{name}/Transpose")
    product = ir.node("MatMul", [matmuls[0].inputs[0], transpose.outputs[0]], name=f"{name}/MatMul")
    rows = add_initializer(graph, f"{name}.rows", np.array([count for _, count in held], np.int64))
    split = ir.node("Split", [product.outputs[0], rows], {"axis": -1}, num_outputs=len(held), name=f"{name}/Split")
    graph.insert_before(matmuls[0], [dequantize, transpose, product, split])
    for matmul, part in zip(matmuls, split.outputs, strict=True):
        part.type, part.shape = matmul.outputs[0].type, matmul.outputs[0].shape
        matmul.outputs[0].replace_all_uses_with(part)
    graph.remove(matmuls, safe=True)
    return name, held


def rows_of(dequantize: ir.Node) -> int:
    """Outputs of a weight."""
    codes = dequantize.inputs[0]
    return codes.const_value.shape.numpy()[0] if codes is not None and codes.const_value is not None else 0


def below_each_other(graph: ir.Graph, nodes: list[ir.Node], position: int, name: str) -> ir.Value:
    """The initializers that `nodes` read at an input, one below the other; made when the model is written."""
    values = [value for node in nodes if (value := node.inputs[position]) is not None]
    tensors = [value.const_value for value in values if value.const_value is not None]
    kind = str(values[0].name).rpartition(".")[2]
    sizes = [tensor.shape.numpy() for tensor in tensors]
    shape = ir.Shape([sum(size[0] for size in sizes), *sizes[0][1:]])
    label = f"{name}.{kind}"
    tensor = ir.LazyTensor(
        lambda: ir.tensor(np.concatenate([read_tensor(one) for one in tensors]), dtype=tensors[0].dtype),
        tensors[0].dtype,
        shape,
        name=label,
    )
    value = ir.Value(name=label, shape=shape, type=ir.TensorType(tensors[0].dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
