"""Name an OpenVINO model's anonymous nodes by their place, so that the same model is saved as the same bytes."""

import re
from typing import Any

# A node type, not always the node's own (a folded Range stays `Range_5808`), and the count of all nodes ever made.
ANONYMOUS = re.compile(r"[A-Za-z]\w*_\d+(\.\d+)?")


def name_anonymous_nodes(model: Any) -> None:
    """Number the anonymous nodes from zero, in place; a tensor that is named after one follows it."""
    for place, node in enumerate(model.get_ordered_ops()):
        old = node.get_friendly_name()
        if ANONYMOUS.fullmatch(old):
            new = f"{node.get_type_name()}_{place}"
            node.set_friendly_name(new)
            for port in node.outputs():
                names = port.get_tensor().get_names()
                if old in names:
                    port.get_tensor().set_names((names - {old}) | {new})
