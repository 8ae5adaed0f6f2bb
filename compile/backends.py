"""The table of back ends: the name a target file uses, who makes that package, and with what."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from targets.names import choose

if TYPE_CHECKING:
    from compile.package import Backend


@dataclass(frozen=True)
class BackendEntry:
    """One row of the table.

    Attributes:
        module: of `compile`, imported on use, so that one device's compiler is not needed for another's package.
        class_name: the back end in it.
        tools: distributions whose version can change the package.
        probe: a module and a function of `compile` that says which compiler this machine has, or None.
        options: a module of `compile` whose `check_options` refuses options and recipes before any work, and whose
            `needs` names what options ask for beside the quantized hub; None where there is none.
        reports: `compile_package` takes `progress`, called with (work done, work in all).
    """

    module: str
    class_name: str
    tools: tuple[str, ...]
    probe: tuple[str, str] | None = None
    options: str | None = None
    reports: bool = False

    def check(self, options: Mapping[str, str | int], recipe: str) -> None:
        """Refuse what the back end would refuse of a target's options and a recipe, without doing any work.

        Raises:
            UsageError: as the back end.
        """
        if self.options is not None:
            import_module(f"compile.{self.options}").check_options(options, recipe)

    def needs(self, options: Mapping[str, str | int]) -> tuple[str, ...]:
        """What these options ask for beside the quantized hub, by the names of `compile_package`'s arguments."""
        return () if self.options is None else tuple(import_module(f"compile.{self.options}").needs(options))

    def compiler(self) -> dict[str, str]:
        """What this machine would compile with, where that is not a distribution; {} where it is."""
        if self.probe is None:
            return {}
        module, function = self.probe
        return {function: repr(getattr(import_module(f"compile.{module}"), function)())}


BACKENDS: dict[str, BackendEntry] = {
    "null": BackendEntry("null_backend", "NullBackend", ()),
    "onnxruntime": BackendEntry(
        "onnxruntime_backend", "OnnxRuntimeBackend", ("onnx-ir", "onnxruntime", "tokenizers"), reports=True
    ),
    "openvino": BackendEntry(
        "openvino_backend", "OpenVinoBackend", ("openvino", "openvino-tokenizers", "transformers"), reports=True
    ),
    "onnxruntime-webgpu": BackendEntry("webgpu_backend", "WebGpuBackend", ("onnx-ir", "onnxruntime", "tokenizers")),
    "openvino-gpu": BackendEntry(
        "openvino_gpu_backend", "OpenVinoGpuBackend", ("openvino", "openvino-tokenizers", "transformers")
    ),
    "openvino-npu": BackendEntry(
        "openvino_npu_backend",
        "OpenVinoNpuBackend",
        ("openvino", "openvino-tokenizers", "transformers"),
        ("npu_compiler", "describe_compiler"),
    ),
    "qnn": BackendEntry(
        "qnn_backend", "QnnBackend", ("onnx-ir", "onnxruntime", "onnxruntime-qnn"), options="qnn_options"
    ),
    "ryzen-ai": BackendEntry(
        "ryzen_ai_backend",
        "RyzenAiBackend",
        ("onnx-ir", "onnxruntime", "safetensors"),
        ("quark_load", "quark_pins"),
        options="ryzen_ai_options",
    ),
}


def find_entry(name: str) -> BackendEntry:
    """The row of a back end.

    Raises:
        UsageError: no such back end; the help line names the nearest one.
    """
    return choose(name, BACKENDS, "back end")


def find_backend(name: str) -> "Backend":
    """The back end called `name`.

    Raises:
        UsageError: no such back end; the help line names the nearest one.
    """
    entry = find_entry(name)
    backend: Backend = getattr(import_module(f"compile.{entry.module}"), entry.class_name)()
    return backend
