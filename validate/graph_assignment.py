"""Where ONNX Runtime says the operators of a session are: its graph assignment information."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from validate.measurement import Placement

RECORD = "session.record_ep_graph_assignment_info"  # the session option that makes ONNX Runtime keep it


def read_assignment(session: Any, name: str, requested: str, weights: Mapping[str, int]) -> Placement:
    """The placement of an `onnxruntime.InferenceSession` that was made with `RECORD`.

    Args:
        session: the session.
        name: what the package calls it.
        requested: the execution provider asked for.
        weights: bytes of weights that each node reads, by node name (`onnx_graph.weight_bytes`).
    """
    operators: Counter[str] = Counter()
    held: Counter[str] = Counter()
    elsewhere: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        for node in part.get_nodes():
            operators[part.ep_name] += 1
            held[part.ep_name] += weights.get(node.name, 0)
            if part.ep_name != requested:
                elsewhere[node.op_type] += 1
    return Placement(name, requested, dict(operators), dict(held), dict(elsewhere))
