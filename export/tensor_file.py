"""Write the external data of an ONNX model as a stream: each tensor is let go of once it is in the file."""

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

# A runtime that maps the file reads every tensor from the start of a cache line.
ALIGNMENT = 64
# Smaller ones stay in the graph's own file: shapes, axes, scalars.
SMALLEST = 1024
BLOCK_BYTES = 1 << 24
FOUR_BITS = frozenset({ir.DataType.INT4, ir.DataType.UINT4})


class TensorFile:
    """A file of tensors that is being written, next to the graph that will point into it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stream = path.open("wb")

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stream.close()

    def append(self, name: str, array: NDArray[Any]) -> ir.TensorProtocol:
        """Write `array` and return the tensor that points to it, or a small one as it is; 4-bit numbers are packed."""
        held = ir.tensor(array, name=name)
        if held.nbytes < SMALLEST:
            return held
        offset = -(-self.stream.tell() // ALIGNMENT) * ALIGNMENT
        self.stream.write(bytes(offset - self.stream.tell()))
        self.write(array, held)
        return ir.ExternalTensor(
            location=self.path.name,
            offset=offset,
            length=self.stream.tell() - offset,
            dtype=held.dtype,
            shape=ir.Shape(array.shape),
            name=name,
            base_dir=str(self.path.parent),
        )

    def write(self, array: NDArray[Any], held: ir.TensorProtocol) -> None:
        """The bytes of a tensor as ONNX stores them: little-endian, two 4-bit numbers to a byte, low one first."""
        if held.dtype not in FOUR_BITS:
            self.stream.write(np.ascontiguousarray(array).data.cast("B"))
            return
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for start in range(0, len(flat), BLOCK_BYTES):
            block = flat[start : start + BLOCK_BYTES] & 15
            block = np.append(block, np.uint8(0)) if len(block) % 2 else block
            self.stream.write((block[::2] | (block[1::2] << 4)).data)

    def move(self, model: ir.Model) -> None:
        """Move every tensor of the model that is not in the file yet, in the order of its initializers."""
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            here = isinstance(tensor, ir.ExternalTensor) and Path(tensor.path) == self.path
            if tensor is not None and not here:
                value.const_value = self.append(str(name), read_tensor(tensor))


def read_tensor(tensor: ir.TensorProtocol) -> NDArray[Any]:
    """A tensor's numbers; those of a file come in memory of their own.

    The file is read, not mapped: mapped pages would count as resident until the kernel wants them back.
    """
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor.numpy()
    dtype = tensor.dtype.numpy()
    shape = tuple(tensor.shape.numpy())
    stored = np.fromfile(tensor.path, np.uint8, tensor.length or -1, offset=tensor.offset or 0)
    if tensor.dtype not in FOUR_BITS:
        return stored.view(dtype).reshape(shape)
    pairs = np.empty((len(stored), 2), np.int8 if tensor.dtype == ir.DataType.INT4 else np.uint8)
    pairs[:, 0], pairs[:, 1] = stored & 15, stored >> 4
    if tensor.dtype == ir.DataType.INT4:
        pairs -= (pairs & 8) << 1
    return pairs.reshape(-1)[: int(np.prod(shape))].reshape(shape)
