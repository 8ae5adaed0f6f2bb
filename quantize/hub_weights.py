"""Find the weights of a hub that are worth quantizing, put quantized ones in their place, and read them back."""

from collections.abc import Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.hub_passes import producer
from export.tensor_file import FOUR_BITS, TensorFile, read_tensor
from quantize.weight import QuantizedWeight, shifted
from targets.errors import StageFailed

# (bits, symmetric) -> how a code is stored: signed around zero, or unsigned with a zero point.
CODE_TYPES = {(4, True): ml_dtypes.int4, (4, False): ml_dtypes.uint4, (8, True): np.int8, (8, False): np.uint8}

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

# A weight's name is kept in that of the node which dequantizes it.
SUFFIX = "/DequantizeLinear"


@dataclass(frozen=True)
class WeightUse:
    """A weight and who reads it.

    Attributes:
        name: of the module that owns it, as in the checkpoint (`model.layers.0.self_attn.q_proj.weight`).
        value: what is read: [in, out] for a linear weight, [vocab, hidden] for the embedding table.
        linear: a MatMul reads it.
        embedding: the embedding table or the head, which a 4-bit scheme keeps in 8 bits.
        stored: the initializer behind `value`: `value` itself, or what a Cast and a Transpose make `value` of.
    """

    name: str
    value: ir.Value
    linear: bool
    embedding: bool
    stored: ir.Value

    @property
    def in_channels(self) -> int:
        """Weights that make up one output."""
        return self.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        rows, columns = self.tensor.shape.numpy()
        return (columns, rows) if self.flipped else (rows, columns)

    @property
    def flipped(self) -> bool:
        """Whether it is stored [in, out]."""
        return self.linear and producer(self.value, "Transpose") is None

    @property
    def tensor(self) -> ir.TensorProtocol:
        """The stored numbers.

        Raises:
            StageFailed: the initializer has none.
        """
        if self.stored.const_value is None:
            raise StageFailed(f"{self.name} has no data", "export the hub again")
        return self.stored.const_value

    def array(self) -> NDArray[np.float32]:
        """[out, in] float32, in memory of its own."""
        weight = read_tensor(self.tensor)
        return np.ascontiguousarray(weight.T if self.flipped else weight, np.float32)


def find_weights(hub: ir.Model, vocab_size: int) -> list[WeightUse]:
    """Every constant that a MatMul multiplies by or a Gather reads rows of, in graph order, each once."""
    found: dict[str, WeightUse] = {}
    for node in hub.graph:
        if node.op_type not in {"MatMul", "Gather"}:
            continue
        value = node.inputs[1] if node.op_type == "MatMul" else node.inputs[0]
        stored = stored_weight(value)
        if value is None or stored is None or stored.name is None or stored.const_value is None:
            continue
        name = stored.name.removesuffix("_transposed")
        embedding = node.op_type == "Gather" or vocab_size in stored.const_value.shape.numpy()
        use = WeightUse(name, value, node.op_type == "MatMul", embedding, stored)
        found.setdefault(stored.name, use)
    return list(found.values())


def stored_weight(value: ir.Value | None) -> ir.Value | None:
    """The float matrix behind a value, looking through a Transpose and a Cast, or None."""
    for op_type in ("Transpose", "Cast"):
        node = producer(value, op_type)
        value = node.inputs[0] if node is not None else value
    if value is None or value.const_value is None or len(value.const_value.shape) != 2:
        return None
    return value if value.const_value.dtype in FLOATS else None


def replace_weight(hub: ir.Model, use: WeightUse, weight: QuantizedWeight, file: TensorFile | None = None) -> None:
    """Store `weight` [out, in] in place of the float one and dequantize it where that was read.

    With a `file`, its numbers go there and are not held.
    """
    graph = hub.graph
    arrays = {"codes": storage(weight), "scales": squeeze_groups(weight.scales)}
    if weight.zero_points is not None:
        arrays["zero_points"] = squeeze_groups(weight.zero_points.astype(CODE_TYPES[weight.bits, False]))
    inputs = [add_initializer(graph, f"{use.name}.{kind}", array, file) for kind, array in arrays.items()]
    grouped = weight.scales.shape[1] > 1
    dequantize = ir.node(
        "DequantizeLinear",
        inputs=inputs,
        attributes={"axis": 1, "block_size": weight.group_size} if grouped else {"axis": 0},
        name=f"{use.name}{SUFFIX}",
    )
    dequantize.outputs[0].name = use.name if use.linear else f"{use.name}.dequantized"
    readers = [user for user, _ in use.value.uses()]
    graph.insert_before(first_of(graph, readers), dequantize)
    result = dequantize.outputs[0]
    if use.linear:
        transpose = ir.node("Transpose", inputs=[result], attributes={"perm": [1, 0]}, name=f"{use.name}/Transpose")
        transpose.outputs[0].name = f"{use.name}.transposed"
        graph.insert_after(dequantize, transpose)
        result = transpose.outputs[0]
    use.value.replace_all_uses_with(result)
    remove_float(graph, use)


def remove_float(graph: ir.Graph, use: WeightUse) -> None:
    """Drop the float weight and what was made of it, once nothing reads them."""
    value: ir.Value | None = use.value
    while value is not None and (node := value.producer()) is not None:
        value = node.inputs[0]
        graph.remove(node, safe=True)
    if use.stored.name is not None:
        del graph.initializers[use.stored.name]


def squeeze_groups(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """[out, groups], or [out] when there is one group."""
    return values if values.shape[1] > 1 else values[:, 0]


def storage(weight: QuantizedWeight) -> NDArray[np.generic]:
    """The stored codes [out, in] in the narrowest ONNX type."""
    return weight.stored_codes().astype(CODE_TYPES[weight.bits, weight.zero_points is None])


def add_initializer(graph: ir.Graph, name: str, array: NDArray[np.generic], file: TensorFile | None = None) -> ir.Value:
    """Register `array` as the initializer `name`; with a `file` its numbers go there."""
    array = np.ascontiguousarray(array)
    tensor = ir.tensor(array, name=name) if file is None else file.append(name, array)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def first_of(graph: ir.Graph, nodes: list[ir.Node]) -> ir.Node:
    """The node of `nodes` that comes first in the graph."""
    if len(nodes) == 1:
        return nodes[0]
    wanted = set(nodes)
    return next(node for node in graph if node in wanted)


def quantized_weights(hub: ir.Model) -> Iterator[tuple[str, ir.Node, QuantizedWeight]]:
    """(name, its DequantizeLinear, weight) of every quantized weight of the hub, in graph order."""
    for node in hub.graph:
        if node.op_type == "DequantizeLinear":
            yield weight_name(node), node, read_weight(node)


def weight_name(dequantize: ir.Node) -> str:
    """The name of the weight behind a DequantizeLinear of the hub."""
    return (dequantize.name or "").removesuffix(SUFFIX)


def read_weight(dequantize: ir.Node) -> QuantizedWeight:
    """The weight behind a DequantizeLinear of the hub."""
    tensors = [value.const_value for value in dequantize.inputs if value is not None]
    if any(tensor is None for tensor in tensors):
        raise StageFailed(f"{dequantize.name} dequantizes something that is not stored", "quantize the hub again")
    stored = [tensor for tensor in tensors if tensor is not None]
    arrays = [read_tensor(tensor) for tensor in stored]
    codes = arrays[0].astype(np.int16)
    scales = arrays[1].reshape(codes.shape[0], -1)
    zero_points = None
    if len(arrays) > 2:
        zero_points = arrays[2].astype(np.int16).reshape(scales.shape)
        codes = shifted(codes, -zero_points)
    bits = 4 if stored[0].dtype in FOUR_BITS else 8
    return QuantizedWeight(codes, scales, zero_points, bits)


def is_quantized(weight: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear behind a MatMul's or a Gather's weight, looking through the Transpose, or None."""
    transpose = producer(weight, "Transpose")
    return producer(transpose.inputs[0] if transpose else weight, "DequantizeLinear")
