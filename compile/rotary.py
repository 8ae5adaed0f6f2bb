"""Tabulate the hub's rotary embedding, whatever scaling the model uses, by running the hub's own nodes."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from compile.attention import Attention

Table = NDArray[np.float32]


def rotary_tables(hub: ir.Model, attention: Attention, positions: int) -> tuple[Table, Table]:
    """Cosines and sines, each [positions, head_dim / 2] float32, for positions from zero.

    The hub repeats the half table for both halves of a head; a fused kernel wants it once.
    """
    import onnxruntime

    names = [attention.cos.name, attention.sin.name]
    part = hub.clone()
    values = {value.name: value for node in part.graph for value in node.outputs}
    part.graph.outputs[:] = [values[name] for name in names]
    for value in part.graph.outputs:
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([None, None, None, None])
    common.RemoveUnusedNodesPass()(part)
    part.graph.inputs[:] = [value for value in part.graph.inputs if value.name == "position_ids"]
    session = onnxruntime.InferenceSession(ir.to_proto(part).SerializeToString(), providers=["CPUExecutionProvider"])
    cos, sin = session.run(None, {"position_ids": np.arange(positions, dtype=np.int64)[None]})
    half = cos.shape[-1] // 2
    cos, sin = (np.ascontiguousarray(table.reshape(positions, -1)[:, :half]) for table in (cos, sin))
    return cos, sin
