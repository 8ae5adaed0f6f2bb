"""What a stage's process may import while the stage's inputs are still being made.

Every stage has a process of its own, since a compiler that crashes or leaks shall end nothing but its stage; importing
its libraries takes that process between half a second and three. A list that is wrong costs time and nothing else.
"""

from collections.abc import Mapping
from typing import Any

# By stage and back end: modules that take long, and that any job of the kind needs.
AHEAD: dict[tuple[str, str], tuple[str, ...]] = {
    ("export", ""): ("export.hub", "export.native_hub", "export.reference", "onnxruntime"),
    ("golden", ""): ("validate.golden", "onnxruntime", "tokenizers"),
    ("quantize", ""): ("quantize.quantizer", "quantize.hub_weights", "quantize.nearest"),
    ("compile", "openvino"): (
        "compile.openvino_backend",
        "compile.joined_projections",
        "openvino_tokenizers",
        "transformers.models.auto.tokenization_auto",
    ),
    ("compile", "onnxruntime"): ("compile.onnxruntime_backend", "compile.onnxruntime_lowering", "onnxruntime"),
    ("screen", "openvino"): ("validate.screen", "validate.openvino_runtime", "openvino"),
    ("screen", "onnxruntime"): ("validate.screen", "validate.onnxruntime_runtime", "onnxruntime"),
}


def imported_ahead(stage: str, parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """The modules for a job of `stage` with these parameters; () where there is nothing to gain."""
    return AHEAD.get((stage, str(parameters.get("backend", ""))), ())
