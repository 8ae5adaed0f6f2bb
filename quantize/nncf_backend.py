"""Quantize weights with NNCF, a few at a time.

NNCF walks and copies the whole model it is given: 27 s and 4.3 GB for 135 million parameters. Data-free
compression looks at each weight alone, so it is given small graphs that hold only the weights, and the result is
the same.
"""

import contextlib
import io
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quantize.scheme import Scheme
from quantize.weight import QuantizedWeight
from targets.errors import StageFailed

if TYPE_CHECKING:
    import onnx

OPSET = 21  # the first with block-wise DequantizeLinear, in which NNCF then writes its result


def quantize_weights(weights: Mapping[str, NDArray[np.float32]], scheme: Scheme) -> dict[str, QuantizedWeight]:
    """Round each weight to the scheme's grid.

    Args:
        weights: [out, in] float32 by name.
        scheme: bits, symmetry and group size; the same for all of them.

    Raises:
        StageFailed: NNCF left a weight as it was.
    """
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # NNCF draws a progress bar for every call
        compressed = nncf.compress_weights(
            weights_only_model(weights),
            mode=getattr(nncf.CompressWeightsMode, f"INT{scheme.bits}_{'SYM' if scheme.symmetric else 'ASYM'}"),
            # NNCF, too, calls a whole channel -1.
            **({"group_size": scheme.group_size, "ratio": 1.0, "all_layers": True} if scheme.bits == 4 else {}),
        )
    stored = {tensor.name: tensor for tensor in compressed.graph.initializer}
    return {name: read_compressed(stored, name, scheme) for name in weights}


def weights_only_model(weights: Mapping[str, NDArray[np.float32]]) -> "onnx.ModelProto":
    """An ONNX model of one MatMul per weight, each with an input of its own."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, inputs, outputs, initializers = [], [], [], []
    for number, (name, weight) in enumerate(weights.items()):
        out_channels, in_channels = weight.shape
        nodes.append(helper.make_node("MatMul", [f"x{number}", name], [f"y{number}"], name=f"MatMul{number}"))
        inputs.append(helper.make_tensor_value_info(f"x{number}", TensorProto.FLOAT, [1, in_channels]))
        outputs.append(helper.make_tensor_value_info(f"y{number}", TensorProto.FLOAT, [1, out_channels]))
        initializers.append(numpy_helper.from_array(np.ascontiguousarray(weight.T), name))
    graph = helper.make_graph(nodes, "weights", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=onnx.IR_VERSION)


def read_compressed(stored: Mapping[str, "onnx.TensorProto"], name: str, scheme: Scheme) -> QuantizedWeight:
    """The weight NNCF wrote as `<name>_quantized` [in, out], `_scale` and `_zero_point` [groups, out] or [out]."""
    from onnx import numpy_helper

    if f"{name}_quantized" not in stored:
        raise StageFailed(
            f"NNCF left {name} unquantized in scheme {scheme.name}",
            "choose another scheme: this weight's shape does not fit the group size",
        )
    codes = numpy_helper.to_array(stored[f"{name}_quantized"]).astype(np.int16).T
    scales = np.atleast_2d(numpy_helper.to_array(stored[f"{name}_scale"]).astype(np.float32)).T
    zero_points = None
    if not scheme.symmetric:
        zero_points = np.atleast_2d(numpy_helper.to_array(stored[f"{name}_zero_point"]).astype(np.int16)).T
        codes = codes - np.repeat(zero_points, codes.shape[1] // zero_points.shape[1], axis=1)
    return QuantizedWeight(np.ascontiguousarray(codes), np.ascontiguousarray(scales), zero_points, scheme.bits)
