"""Round a language model's head to 4 bits, as AMD's generator would, but here, where the result can be measured.

`model_generate` starts with ONNX Runtime GenAI's model builder, which rounds every MatMul that a checkpoint leaves in
floating point to 4 bits in blocks of 32 (onnxruntime-genai 0.14, `builders/base.py`, `save_model`). A head in another
form would not reach the device. AMD's own recipe for it is `--layer_quant_scheme lm_head uint4_wo_32`.
"""

import onnx_ir as ir
from onnx_ir.passes import common

from compile.quark_checkpoint import HEAD
from quantize.hub_weights import WeightUse, add_initializer, is_quantized, read_weight, replace_weight
from quantize.nearest import quantize_weight
from quantize.scheme import parse_scheme
from quantize.weight import QuantizedWeight
from targets.errors import StageFailed

HEAD_SCHEME = "w4-asym-g32"


def round_head(hub: ir.Model) -> None:
    """Give the last MatMul of a quantized hub a 4-bit weight of its own, in place; a tied table stays as embedding.

    Raises:
        StageFailed: no quantized MatMul computes the logits, or the groups do not divide its inputs.
    """
    matmul = hub.graph.outputs[0].producer()
    source = is_quantized(matmul.inputs[1]) if matmul is not None and matmul.op_type == "MatMul" else None
    if matmul is None or source is None:
        raise StageFailed("no quantized MatMul computes the logits", "report this model")
    table = read_weight(source)
    head = rounded(table)
    float_head = add_initializer(hub.graph, "head.float", table.dequantize().T)
    matmul.replace_input_with(1, float_head)
    common.RemoveUnusedNodesPass()(hub)  # an untied head's former weight, whose name is needed
    replace_weight(hub, WeightUse(HEAD, float_head, linear=True, embedding=True, stored=float_head), head)


def rounded(table: QuantizedWeight) -> QuantizedWeight:
    """A head's weight in `HEAD_SCHEME`.

    Raises:
        StageFailed: the groups do not divide its inputs.
    """
    scheme = parse_scheme(HEAD_SCHEME)
    if table.codes.shape[1] % scheme.group_size:
        raise StageFailed(
            f"the head has {table.codes.shape[1]} input channels, which groups of {scheme.group_size} do not divide",
            "choose another model: Ryzen AI takes heads in groups of 32, 64 or 128",
        )
    return quantize_weight(table.dequantize(), scheme)
