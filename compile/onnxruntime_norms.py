"""ONNX Runtime's fused norms: one operator for a norm, or for a norm and the residual Add before it."""

import itertools

import onnx_ir as ir

from export.hub_passes import producer

MICROSOFT = "com.microsoft"


def lower_norms(graph: ir.Graph) -> None:
    """Use ONNX Runtime's fused norms, and take the residual Add before a norm into it."""
    for norm in [node for node in graph if node.op_type == "RMSNormalization"]:
        attributes = {"epsilon": norm.attributes["epsilon"].as_float()}
        residual = producer(norm.inputs[0], "Add")
        if residual is None:
            attributes = {**attributes, "axis": -1}
            node = ir.node("SimplifiedLayerNormalization", list(norm.inputs), attributes, name=norm.name)
            replaced, results = [norm], [(norm.outputs[0], node.outputs[0])]
        else:
            node = ir.node(
                "SkipSimplifiedLayerNormalization",
                [*residual.inputs, norm.inputs[1]],
                attributes,
                domain=MICROSOFT,
                num_outputs=4,
                name=norm.name,
            )
            replaced = [norm, residual]
            results = [(norm.outputs[0], node.outputs[0]), (residual.outputs[0], node.outputs[3])]
        before, after = (list(side) for side in itertools.zip_longest(*results))
        ir.convenience.replace_nodes_and_values(graph, norm, replaced, [node], before, after)
