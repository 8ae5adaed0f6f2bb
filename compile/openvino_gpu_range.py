"""Find the largest number a model computes, to see before a GPU does whether float16 holds it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantize.quantizer import QuantizedModel
from targets.errors import StageFailed

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

LARGEST_FLOAT16 = 65504.0
TEXT = "The quick brown fox jumps over the lazy dog. In 1969, two people walked on the Moon; what did they bring home?"


@dataclass(frozen=True)
class Largest:
    """A tensor of the hub and its largest absolute value."""

    tensor: str
    value: float


def largest_activation(quantized: QuantizedModel) -> Largest:
    """Run the quantized hub on `TEXT` in float32 on this CPU; look at every product and at the residual stream.

    The hub has each RMSNorm as one operator, as the GPU plugin fuses it: the squares inside stay in float32 there. What
    this proves is one text long: it finds a model whose residuals do not fit, not that no text makes them so.

    Raises:
        StageFailed: float16 cannot hold it, so that a GPU that computes in float16 would speak garbage.
    """
    import numpy as np
    import onnx_ir as ir
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(quantized.folder / "tokenizer.json")).encode(TEXT, add_special_tokens=False).ids
    hub = ir.load(quantized.graph)
    names = expose_activations(hub)
    found = Largest("", 0.0)
    arrays = run(hub, quantized, np.array([ids[: quantized.facts.max_positions]], np.int64))
    for name, array in zip(names, arrays, strict=True):
        value = float(np.abs(array).max())
        if not value <= found.value:  # written so that NaN counts as the largest
            found = Largest(name, value)
    if not found.value <= LARGEST_FLOAT16:
        raise StageFailed(
            f"{found.tensor} reaches {found.value:g}, which float16 on a GPU cannot hold",
            "build for the CPU, or for a GPU that computes in bfloat16 or float32",
        )
    return found


def expose_activations(hub: "ir.Model") -> list[str]:
    """Make the graph's outputs what MatMul and RMSNormalization compute and what the latter reads; their names."""
    import onnx_ir as ir

    found: dict[str, ir.Value] = {}
    for node in hub.graph:
        if node.op_type not in {"MatMul", "RMSNormalization"}:
            continue
        residual = node.inputs[0] if node.op_type == "RMSNormalization" else None
        for value in (node.outputs[0], residual):
            if value is not None:
                value.dtype = ir.DataType.FLOAT
                found[str(value.name)] = value
    hub.graph.outputs[:] = list(found.values())
    return list(found)


def run(hub: "ir.Model", quantized: QuantizedModel, tokens: "NDArray[Any]") -> "list[NDArray[Any]]":
    """Every output of `hub` for one prefill of `tokens` [1, n], its products in float32."""
    import numpy as np
    import onnx_ir as ir
    import onnxruntime

    facts, length = quantized.facts, tokens.shape[1]
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(quantized.folder))
    session = onnxruntime.InferenceSession(
        ir.to_proto(hub).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = {
        "input_ids": tokens,
        "attention_mask": np.ones((1, length), np.int64),
        "position_ids": np.arange(length, dtype=np.int64)[None],
    }
    empty = np.zeros((1, facts.n_kv_heads, 0, facts.head_dim), np.float32)
    past = {each.name: empty for each in session.get_inputs() if each.name.startswith("past_key_values.")}
    return [np.asarray(each) for each in session.run(None, {**feeds, **past})]
