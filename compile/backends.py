"""The table of back ends: the name a target file uses, and who makes that package."""

from compile.null_backend import NullBackend
from compile.onnxruntime_backend import OnnxRuntimeBackend
from compile.openvino_backend import OpenVinoBackend
from compile.package import Backend
from targets.names import choose

BACKENDS: dict[str, Backend] = {
    "null": NullBackend(),
    "onnxruntime": OnnxRuntimeBackend(),
    "openvino": OpenVinoBackend(),
}


def find_backend(name: str) -> Backend:
    """The back end called `name`.

    Raises:
        UsageError: no such back end; the help line names the nearest one.
    """
    return choose(name, BACKENDS, "back end")
