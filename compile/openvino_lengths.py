"""Write an OpenVINO model's lengths as NPUW reads them.

OpenVINO's converter takes equal sizes for one another, and may read the number of new tokens from the first layer's
values. NPUW lays values out the other way round ([batch, heads, head_dim, tokens]) after it has cut the model, and
would find `head_dim` there (2026.4.1).
"""

from typing import Any

HEADS_APART = [0, 2, 1, 3]  # [batch, tokens, heads, head_dim] -> [batch, heads, tokens, head_dim]
TOKENS = 2


def read_lengths_from_tokens(model: Any) -> None:
    """Replace the number of tokens in heads [batch, heads, tokens, head_dim] by that of `input_ids`, in place."""
    import numpy as np
    from openvino import opset13

    zero, one = opset13.constant(np.int64(0)), opset13.constant(np.int64(1))
    for gather in [node for node in model.get_ordered_ops() if node.get_type_name() == "Gather"]:
        shape = gather.input_value(0).get_node()
        if shape.get_type_name() != "ShapeOf" or not has_heads_apart(shape.input_value(0).get_node()):
            continue
        if constant_of(gather.input_value(1).get_node()) != [TOKENS]:
            continue
        lengths = opset13.shape_of(model.input("input_ids"), output_type="i64")
        index = opset13.reshape(one, opset13.constant(np.array(gather.input_value(1).get_shape(), np.int64)), False)
        read = opset13.gather(lengths, index, zero)
        for reader in gather.output(0).get_target_inputs():
            reader.replace_source_output(read.output(0))
    model.validate_nodes_and_infer_types()


def has_heads_apart(node: Any) -> bool:
    """Whether a node gives heads [batch, heads, tokens, head_dim]."""
    return node.get_type_name() == "Transpose" and constant_of(node.input_value(1).get_node()) == HEADS_APART


def constant_of(node: Any) -> list[int] | None:
    """The numbers of a constant, flat; None for anything else."""
    return [int(number) for number in node.get_data().flatten()] if node.get_type_name() == "Constant" else None


def write_out_repeats(model: Any) -> None:
    """Give every Broadcast of shared heads [batch, heads, 1, keys, head_dim] its whole target shape, in place.

    NPUW looks for such a repetition and exchanges the last two sizes of its target.
    """
    import numpy as np
    from openvino import opset13

    zero = opset13.constant(np.int64(0))
    for repeat in [node for node in model.get_ordered_ops() if node.get_type_name() == "Broadcast"]:
        target, apart = constant_of(repeat.input_value(1).get_node()), repeat.input_value(0)
        if target is None or len(target) != 5 or apart.get_node().get_type_name() != "Unsqueeze":
            continue
        shape = opset13.shape_of(apart.get_node().input_value(0), output_type="i64")
        sizes = [opset13.gather(shape, opset13.constant(np.array(axes, np.int64)), zero) for axes in ([0, 1], [2, 3])]
        whole = opset13.concat([sizes[0], opset13.constant(np.array(target[2:3], np.int64)), sizes[1]], 0)
        repeat.input(1).replace_source_output(whole.output(0))
    model.validate_nodes_and_infer_types()
