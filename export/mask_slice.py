"""A hub pass: let every layer read the whole mask, which is as long as the keys already."""

import onnx_ir as ir
from onnx_ir import passes


class WholeMaskPass(passes.InPlacePass):
    """Drop the Slice that cuts the mask to the length of the keys in front of every softmax.

    transformers writes it for caches that are longer than the sequence; the hub's cache never is, so the Slice returns
    its input. In OpenVINO its shape arithmetic costs a fifth of the decode speed of a small model.
    """

    def call(self, model: ir.Model) -> passes.PassResult:
        dropped = 0
        for softmax in [node for node in model.graph if node.op_type == "Softmax"]:
            masked = softmax.inputs[0].producer() if softmax.inputs[0] is not None else None
            if masked is None or masked.op_type != "Add":
                continue
            for position, value in enumerate(masked.inputs):
                whole = uncut(value)
                if whole is not None:
                    masked.replace_input_with(position, whole)
                    dropped += 1
        return passes.PassResult(model, modified=dropped > 0)


def uncut(value: ir.Value | None) -> ir.Value | None:
    """What a Slice takes from its start along the last of four axes up to the length of a KV cache, or None."""
    cut = value.producer() if value is not None else None
    if cut is None or cut.op_type != "Slice" or len(cut.inputs) < 4:
        return None
    start, axis = (integer(cut.inputs[index]) for index in (1, 3))
    step = integer(cut.inputs[4]) if len(cut.inputs) > 4 else 1
    if start != 0 or axis not in {3, -1} or step != 1 or not measures_keys(cut.inputs[2]):
        return None
    return cut.inputs[0]


def integer(value: ir.Value | None) -> int | None:
    """The one integer of a constant, or None."""
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    return int(value.const_value.numpy().reshape(()))


def measures_keys(end: ir.Value | None) -> bool:
    """Whether `end` is one dimension of the keys: a Shape of what a layer's cache was repeated to."""
    node = end.producer() if end is not None else None
    while node is not None and node.op_type in {"Unsqueeze", "Gather"}:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node is None or node.op_type != "Shape":
        return False
    keys = node.inputs[0]
    while keys is not None:
        if (keys.name or "").startswith("present."):
            return True
        source = keys.producer()
        if source is None or source.op_type not in {"Reshape", "Expand", "Unsqueeze"}:
            return False
        keys = source.inputs[0]
    return False
