"""Write ONNX nodes one after the other: names, constants that are shared, and weights that stay where they are."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.tensor_map import TensorPlace

IR_TYPES = {"F32": ir.DataType.FLOAT, "F16": ir.DataType.FLOAT16, "BF16": ir.DataType.BFLOAT16}


class GraphWriter:
    """The nodes and initializers of a graph under construction."""

    def __init__(self, places: Mapping[str, TensorPlace]) -> None:
        """Weights are those in `places`, by name."""
        self.places = places
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}
        self.made: dict[str, ir.Value] = {}

    def node(self, name: str, op_type: str, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Value:
        """Add a node of one output, which is called after it."""
        node = ir.node(op_type, inputs, attributes, name=name)
        node.outputs[0].name = f"{name}_output_0"
        self.nodes.append(node)
        return node.outputs[0]

    def integers(self, *numbers: int) -> ir.Value:
        """A constant [n] int64, written once."""
        return self.constant(f"hub.int64.{'.'.join(map(str, numbers))}", np.array(numbers, np.int64))

    def integer(self, number: int) -> ir.Value:
        """A constant [] int64, written once."""
        return self.constant(f"hub.int64.scalar.{number}", np.array(number, np.int64))

    def constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        """An initializer with its numbers in the graph's own file, written once."""
        if name not in self.initializers:
            tensor = ir.tensor(array, name=name)
            self.initializers[name] = ir.Value(
                name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
            )
        return self.initializers[name]

    def vector(self, name: str) -> ir.Value:
        """A norm's weight or a bias as a float32 constant: small, and read by every runtime as it is."""
        return self.constant(name, self.places[name].read())

    def matrix(self, name: str) -> ir.Value:
        """A weight as float32; its numbers stay in the safetensors file, in the type they have there."""
        if name in self.made:
            return self.made[name]
        place = self.places[name]
        dtype = IR_TYPES[place.dtype]
        tensor = ir.ExternalTensor(
            location=place.path.name,
            offset=place.offset,
            length=place.n_bytes,
            dtype=dtype,
            shape=ir.Shape(place.shape),
            name=name,
            base_dir=os.fspath(place.path.parent),
        )
        value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(dtype), const_value=tensor)
        self.initializers[name] = value
        if dtype != ir.DataType.FLOAT:
            value = self.node(f"{name}/Cast", "Cast", [value], to=ir.DataType.FLOAT.value)
        self.made[name] = value
        return value

    def transposed(self, name: str) -> ir.Value:
        """A weight [out, in] as [in, out], which MatMul wants."""
        key = f"{name}_transposed"
        if key not in self.made:
            value = self.node(f"{name}/Transpose", "Transpose", [self.matrix(name)], perm=[1, 0])
            value.name = key
            self.made[key] = value
        return self.made[key]
