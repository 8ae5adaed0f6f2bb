"""Run a small graph in the HTP simulator, whatever it leaves to the CPU, and on the CPU alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]

needs_htp = pytest.mark.skipif(
    find_spec("onnxruntime_qnn") is None, reason="needs onnxruntime-qnn: pip install '.[qnn]'"
)

HEAD = '<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>'


@dataclass(frozen=True)
class Simulated:
    """One graph, run twice.

    Attributes:
        on_htp: types of the operators that the execution provider took.
        on_cpu: types of those that it left.
        outputs: of the simulator.
        expected: of the CPU alone.
    """

    on_htp: tuple[str, ...]
    on_cpu: tuple[str, ...]
    outputs: list[NDArray[Any]]
    expected: list[NDArray[Any]]

    @property
    def error(self) -> float:
        """Largest difference of any output, as a share of the largest magnitude; infinite when not a number."""
        worst = 0.0
        for found, wanted in zip(self.outputs, self.expected, strict=True):
            difference = float(np.abs(found - wanted).max() / np.abs(wanted).max())
            worst = max(worst, difference if np.isfinite(difference) else np.inf)
        return worst


def parse(text: str, constants: Arrays) -> onnx.ModelProto:
    """A model from ONNX text without its header, with `constants` for the names that the text leaves open."""
    model = onnx.parser.parse_model(f"{HEAD} {text}")
    for name, array in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return model


def simulate(text: str, constants: Arrays, feeds: Arrays, soc: int = 60, arch: int = 73) -> Simulated:
    """Run the graph for the device `soc` with a Hexagon `arch`."""
    import onnxruntime

    from validate.qnn_runtime import Qnn

    model = parse(text, constants).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    told = {"backend_type": "htp", "soc_model": str(soc), "htp_arch": str(arch)}
    options.add_provider_for_devices([Qnn().device], told)
    session = onnxruntime.InferenceSession(model, options)
    placed: dict[str, list[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        placed.setdefault(part.ep_name, []).extend(node.op_type for node in part.get_nodes())
    cpu = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return Simulated(
        on_htp=tuple(sorted(placed.get("QNNExecutionProvider", ()))),
        on_cpu=tuple(sorted(placed.get("CPUExecutionProvider", ()))),
        outputs=session.run(None, feeds),
        expected=cpu.run(None, feeds),
    )
