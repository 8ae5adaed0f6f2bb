"""Read quantized weights back out of an OpenVINO IR."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.weight import QuantizedWeight, shifted
from targets.errors import StageFailed

# The converter names the last node of a dequantization after the hub's node.
SUFFIX = "/DequantizeLinear"

# The two codes in every byte, low nibble first, as int16 side by side in one number: numpy looks numbers up much faster
# than rows. Unsigned, and in two's complement.
NIBBLES = np.stack([np.arange(256) & 15, np.arange(256) >> 4], axis=-1).astype(np.int16)
PAIRS = NIBBLES.view(np.uint32)[:, 0]
SIGNED_PAIRS = (NIBBLES - ((NIBBLES & 8) << 1)).view(np.uint32)[:, 0]


def read_weights(model: Any, names: set[str]) -> Iterator[tuple[str, QuantizedWeight]]:
    """The weights of an IR with their hub names, one at a time; a name that is not found is left out.

    Raises:
        StageFailed: a dequantization of a form the converter is not known to write.
    """
    left = set(names)
    for node in model.get_ordered_ops():
        name = node.get_friendly_name().removesuffix(SUFFIX)
        if name in left and name != node.get_friendly_name():
            left.remove(name)
            yield name, read_dequantization(node, name)


def rows_of(weight: QuantizedWeight, rows: slice) -> QuantizedWeight:
    """Some outputs of a weight."""
    zero_points = None if weight.zero_points is None else weight.zero_points[rows]
    return QuantizedWeight(weight.codes[rows], weight.scales[rows], zero_points, weight.bits)


def read_dequantization(node: Any, name: str) -> QuantizedWeight:
    """The weight computed as `(codes - zero_points) * scales`, reshaped from [out, groups, size] when grouped."""
    shape = tuple(node.get_output_shape(0))
    multiply = source(node) if node.get_type_name() == "Reshape" else node
    centred, scales = source(multiply, 0), constant(source(multiply, 1), name)
    zero_points = None
    if centred.get_type_name() == "Subtract":
        zero_points = constant(source(centred, 1), name).astype(np.int16).reshape(shape[0], -1)
        centred = source(centred, 0)
    stored = source(centred) if centred.get_type_name() == "Convert" else centred
    codes = constant(stored, name).astype(np.int16).reshape(shape[0], -1)
    if zero_points is not None:
        codes = shifted(codes, -zero_points)
    bits = 4 if stored.get_element_type().get_type_name() in {"i4", "u4"} else 8
    return QuantizedWeight(codes, scales.astype(np.float32).reshape(shape[0], -1), zero_points, bits)


def source(node: Any, port: int = 0) -> Any:
    """The producer of an input."""
    return node.input_value(port).get_node()


def constant(node: Any, name: str) -> NDArray[Any]:
    """The numbers of a Constant, looking through a Convert and a Reshape; 4-bit codes come unpacked.

    Raises:
        StageFailed: something else is there.
    """
    while node.get_type_name() in {"Convert", "Reshape"}:
        node = source(node)
    if node.get_type_name() != "Constant":
        raise StageFailed(
            f"{name} is dequantized from a {node.get_type_name()} in the IR", "report this model: the converter changed"
        )
    kind = node.get_element_type().get_type_name()
    if kind not in {"i4", "u4"}:
        return np.asarray(node.get_data())
    packed = np.asarray(node.get_data()).reshape(-1).view(np.uint8)
    pairs = (SIGNED_PAIRS if kind == "i4" else PAIRS).take(packed).view(np.int16)
    return pairs.reshape(-1)[: int(np.prod(node.get_output_shape(0)))].reshape(node.get_output_shape(0))
