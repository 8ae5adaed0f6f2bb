"""What Qualcomm's HTP takes and what it computes wrongly without a word, checked before its compiler is started.

Each rule was seen on onnxruntime-qnn 2.7.0 (QAIRT 2.51): the compiler either leaves such a graph on the CPU, or takes
it and returns other numbers.
"""

from collections.abc import Callable, Iterator, Mapping

import onnx_ir as ir

from targets.errors import StageFailed

# Operators by domain and type, with what becomes of them.
REFUSED_OPERATORS = {
    ("com.microsoft", "GroupQueryAttention"): "the execution provider leaves it on the CPU; use Attention",
    ("", "Pow"): "a decomposed RMSNorm overflows float16; write RMSNormalization",
    ("", "ReduceMean"): "a decomposed RMSNorm overflows float16; write RMSNormalization",
}

# Half of float16's largest finite number: a mask of this and a score stay finite together.
LARGEST_CONSTANT = 32752.0

Finding = tuple[str, str]


def check_graph(model: ir.Model, what: str) -> None:
    """Refuse a graph that breaks a rule.

    Args:
        model: of any opset; shapes inferred.
        what: the graph's name in an error.

    Raises:
        StageFailed: names each broken rule with the first node that breaks it, and how many do.
    """
    broken: list[str] = []
    for rule, find in RULES.items():
        found = list(find(model))
        if found:
            (node, reason), more = found[0], len(found) - 1
            broken.append(f"{rule}: {node}{f' and {more} more' if more else ''}; {reason}")
    if broken:
        raise StageFailed(
            f"the {what} graph is not for the HTP:\n  " + "\n  ".join(broken),
            "lower the model as compile.qnn_lowering does, or build for the CPU",
        )


def find_refused_operators(model: ir.Model) -> Iterator[Finding]:
    """Operators that stay on the CPU or overflow float16."""
    for node in model.graph:
        reason = REFUSED_OPERATORS.get((node.domain, node.op_type))
        if reason:
            yield label(node), reason


def find_symbolic_shapes(model: ir.Model) -> Iterator[Finding]:
    """Values whose sizes are not all numbers: the node that has one stays on the CPU, without an error."""
    reason = "the HTP runs fixed shapes only; nodes with other ones stay on the CPU"
    for value in [*model.graph.inputs, *(output for node in model.graph for output in node.outputs)]:
        if value.shape is None or not all(isinstance(size, int) for size in value.shape):
            producer = value.producer()
            yield (label(producer) if producer is not None else f"input {value.name}"), reason


def find_shifted_blocks(model: ir.Model) -> Iterator[Finding]:
    """Block-wise DequantizeLinear with a zero point: the result is off by more than the signal."""
    for node in model.graph:
        if node.op_type != "DequantizeLinear" or not node.attributes.get_int("block_size", 0):
            continue
        zero_points = node.inputs[2] if len(node.inputs) > 2 else None
        if zero_points is not None and (zero_points.const_value is None or zero_points.const_value.numpy().any()):
            yield label(node), "block-wise zero points are misread; use MatMulNBits, or codes without a zero point"


def find_misread_channels(model: ir.Model) -> Iterator[Finding]:
    """Channel-wise DequantizeLinear with negative scales, or of 4 bits without zero points: other numbers come out."""
    for node in model.graph:
        if node.op_type != "DequantizeLinear" or "block_size" in node.attributes:
            continue
        scales = node.inputs[1].const_value if node.inputs[1] is not None else None
        if scales is None or len(scales.shape) != 1 or node.inputs[0] is None:
            continue
        if (scales.numpy() < 0).any():
            yield label(node), "negative scales of channels are misread; write the scale for blocks of the channel"
        elif node.inputs[0].dtype in {ir.DataType.INT4, ir.DataType.UINT4} and len(node.inputs) < 3:
            yield label(node), "4-bit channels are misread without zero points; write zeros, or blocks"


def find_unbounded_constants(model: ir.Model) -> Iterator[Finding]:
    """Constants that are an infinity in float16, or one once a score is added.

    The CPU makes NaN of a row that an infinite mask hides, or of zero times it; the HTP makes some number. Neither says
    a word, and a comparison of the two means nothing.
    """
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in {ir.DataType.FLOAT, ir.DataType.FLOAT16}:
            continue
        array = tensor.numpy()
        largest = max(array.max(initial=0), -array.min(initial=0))
        if not largest <= LARGEST_CONSTANT:  # written so that NaN is found
            yield f"constant {value.name}", f"{largest:g} in float16 is an infinity, or becomes one; mask with -1e4"


def find_wide_norms(model: ir.Model) -> Iterator[Finding]:
    """RMSNormalization with two dimensions above 1 in front of the last: other numbers come out."""
    for node in model.graph:
        shape = node.inputs[0].shape if node.op_type == "RMSNormalization" and node.inputs[0] is not None else None
        if shape is not None and sum(size != 1 for size in shape[:-1]) > 1:
            yield label(node), f"an input of shape {list(shape)} is misread; normalise one list of vectors"


RULES: Mapping[str, Callable[[ir.Model], Iterator[Finding]]] = {
    "refused operator": find_refused_operators,
    "symbolic shape": find_symbolic_shapes,
    "block zero point": find_shifted_blocks,
    "misread channels": find_misread_channels,
    "unbounded constant": find_unbounded_constants,
    "wide RMSNormalization": find_wide_norms,
}


def label(node: ir.Node) -> str:
    """A node's type and name."""
    return f"{node.op_type} {node.name}"
