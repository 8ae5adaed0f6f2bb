"""Graph passes that turn optimum's straight export into the hub dialect, in the order of `hub_dialect`.

The dialect is what every runtime takes (opset 23): each RMSNorm is one `RMSNormalization`, attention stays
decomposed, the mask is finite, and tied weights are stored once.
"""

import re

import numpy as np
import onnx_ir as ir
from onnx_ir import passes
from onnx_ir.passes import common

from export.mask_slice import WholeMaskPass
from targets.errors import StageFailed

HUB_OPSET = 23

# float16's largest finite magnitude is 65504: an accelerator that computes in half precision turns anything
# larger into infinity, and a row of infinities into NaN.
FINITE_MASK = -65504.0


def scalar(value: ir.Value | None) -> float | None:
    """The one number of a constant, or None when the value is not a constant of one element."""
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    return float(value.const_value.numpy().reshape(()))


def producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that makes `value` when it is an `op_type`, else None."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type else None


def constant_operand(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """(varying, constant) operands of a node with two inputs of which exactly one is an initializer."""
    left, right = node.inputs
    if left is None or right is None or (left.const_value is None) == (right.const_value is None):
        return None
    return (right, left) if left.const_value is not None else (left, right)


class NameWeightsPass(passes.InPlacePass):
    """Name every MatMul weight after the module that owns it.

    The exporter folds the transposition of linear weights and numbers the results (`onnx::MatMul_8529`); the
    node's scope still says whose they are. A folded weight is [in, out], so its name ends in `weight_transposed`.
    """

    def call(self, model: ir.Model) -> passes.PassResult:
        renamed = False
        for node in model.graph:
            weight = node.inputs[1] if node.op_type == "MatMul" else None
            scope = re.fullmatch(r"/(.+)/MatMul", node.name or "")
            if weight is None or weight.const_value is None or scope is None:
                continue
            name = scope.group(1).replace("/", ".") + ".weight_transposed"
            if weight.name != name and name not in model.graph.initializers and not weight.is_graph_input():
                weight.name = name
                renamed = True
        return passes.PassResult(model, modified=renamed)


class RemoveSameTypeCastPass(passes.InPlacePass):
    """Drop every Cast to the type its input already has (transformers casts the norms to float32 in float32 too)."""

    def call(self, model: ir.Model) -> passes.PassResult:
        dropped = 0
        for node in list(model.graph):
            source = node.inputs[0] if node.op_type == "Cast" else None
            if source is None or source.dtype is None or source.dtype != node.attributes["to"].as_int():
                continue
            if not node.outputs[0].is_graph_output():
                node.outputs[0].replace_all_uses_with(source)
                model.graph.remove(node, safe=True)
                dropped += 1
        return passes.PassResult(model, modified=dropped > 0)


class FuseRmsNormPass(passes.InPlacePass):
    """Replace `x / sqrt(mean(x^2) + eps) * weight`, as PyTorch exports it, by one `RMSNormalization`.

    Decomposed, the squares of this family's large residuals overflow float16; as one operator every runtime
    accumulates them in float32.
    """

    def call(self, model: ir.Model) -> passes.PassResult:
        fused = 0
        for scale in list(model.graph):
            found = match_rms_norm(scale)
            if found is None:
                continue
            hidden, weight, epsilon = found
            norm = ir.node(
                "RMSNormalization",
                inputs=[hidden, weight],
                attributes={"axis": -1, "epsilon": epsilon},
                name=(scale.name or "").removesuffix("/Mul_1") + "/RMSNormalization",
            )
            ir.convenience.replace_nodes_and_values(
                model.graph, scale, [scale], [norm], list(scale.outputs), list(norm.outputs)
            )
            fused += 1
        return passes.PassResult(model, modified=fused > 0)


def match_rms_norm(scale: ir.Node) -> tuple[ir.Value, ir.Value, float] | None:
    """(hidden [.., d], weight [d], epsilon) when `scale` is the last Mul of a decomposed RMSNorm, else None."""
    operands = constant_operand(scale) if scale.op_type == "Mul" else None
    if operands is None or operands[1].const_value is None or len(operands[1].const_value.shape) != 1:
        return None
    normalised = producer(operands[0], "Mul")
    for hidden, inverse in (normalised.inputs, reversed(normalised.inputs)) if normalised else ():
        divide = producer(inverse, "Reciprocal") or producer(inverse, "Div")
        if divide is None or (divide.op_type == "Div" and scalar(divide.inputs[0]) != 1):
            continue
        root = producer(divide.inputs[-1], "Sqrt")
        shifted = producer(root.inputs[0], "Add") if root else None
        moment = constant_operand(shifted) if shifted else None
        epsilon = scalar(moment[1]) if moment else None
        if moment and epsilon is not None and hidden is not None and is_mean_square(moment[0], hidden):
            return hidden, operands[1], epsilon
    return None


def is_mean_square(value: ir.Value, hidden: ir.Value) -> bool:
    """Whether `value` [.., 1] is the mean of the squares of `hidden` [.., d] along its last axis."""
    mean = producer(value, "ReduceMean")
    if mean is None or len(mean.inputs) < 2 or scalar(mean.inputs[1]) != -1:
        return False
    if "keepdims" in mean.attributes and not mean.attributes["keepdims"].as_int():
        return False
    power, product = producer(mean.inputs[0], "Pow"), producer(mean.inputs[0], "Mul")
    if power is not None:
        return power.inputs[0] is hidden and scalar(power.inputs[1]) == 2
    return product is not None and all(factor is hidden for factor in product.inputs)


class FiniteMaskPass(passes.InPlacePass):
    """Raise the float32 minimum (and minus infinity) that hides masked positions to `FINITE_MASK`."""

    def call(self, model: ir.Model) -> passes.PassResult:
        replaced = False
        for value in model.graph.initializers.values():
            if value.const_value is None or value.dtype != ir.DataType.FLOAT:
                continue
            array = value.const_value.numpy()
            if array.min(initial=0) < FINITE_MASK:
                value.const_value = ir.tensor(np.maximum(array, np.float32(FINITE_MASK)), name=value.name)
                replaced = True
        return passes.PassResult(model, modified=replaced)


class TieEmbeddingPass(passes.InPlacePass):
    """Read the head's weight from the embedding table when the two are equal, so that it is stored once."""

    def call(self, model: ir.Model) -> passes.PassResult:
        graph = model.graph
        for node in list(graph):
            weight = node.inputs[1] if node.op_type == "MatMul" else None
            if weight is None or weight.const_value is None:
                continue
            table = find_table(graph, weight.const_value)
            if table is None:
                continue
            transpose = ir.node(
                "Transpose", inputs=[table], attributes={"perm": [1, 0]}, name=f"{table.name}/Transpose"
            )
            transpose.outputs[0].name = f"{table.name}_transposed"
            graph.insert_before(node, transpose)
            node.replace_input_with(1, transpose.outputs[0])
            if not weight.uses() and weight.name is not None:
                del graph.initializers[weight.name]
            return passes.PassResult(model, modified=True)
        return passes.PassResult(model, modified=False)


def find_table(graph: ir.Graph, weight: ir.TensorProtocol) -> ir.Value | None:
    """The initializer that a Gather reads and whose transposition equals `weight` [hidden, vocab], or None."""
    for node in graph:
        table = node.inputs[0] if node.op_type == "Gather" else None
        if table is None or table.const_value is None or len(table.const_value.shape) != 2:
            continue
        if tuple(table.const_value.shape) == tuple(reversed(list(weight.shape))) and np.array_equal(
            table.const_value.numpy(), weight.numpy().T
        ):
            return table
    return None


class RaiseOpsetPass(passes.InPlacePass):
    """Declare the hub's opset; the converter knows which operators changed on the way."""

    def call(self, model: ir.Model) -> passes.PassResult:
        from onnxscript import version_converter

        before = model.opset_imports[""]
        version_converter.convert_version(model, HUB_OPSET)
        return passes.PassResult(model, modified=before != HUB_OPSET)

    def ensures(self, model: ir.Model) -> None:
        if model.opset_imports.get("") != HUB_OPSET:
            raise StageFailed(
                f"the export stayed at opset {model.opset_imports.get('')} instead of {HUB_OPSET}",
                "report this model: one of its operators has no conversion",
            )


def hub_dialect() -> passes.PassBase:
    """The passes from optimum's export to the hub, in order."""
    return passes.Sequential(
        # The exporter reads a parameter that equals another one (norms that were never trained) through an Identity.
        common.IdentityEliminationPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        # Merging equal constants first lets the next pass see equal expressions.
        common.DeduplicateInitializersPass(size_limit=64),
        common.CommonSubexpressionEliminationPass(),
        common.ShapeInferencePass(),
        RemoveSameTypeCastPass(),
        NameWeightsPass(),
        FuseRmsNormPass(),
        FiniteMaskPass(),
        WholeMaskPass(),
        TieEmbeddingPass(),
        RaiseOpsetPass(),
        common.RemoveUnusedNodesPass(),
        common.ClearMetadataAndDocStringPass(),
        common.TopologicalSortPass(),
    )
