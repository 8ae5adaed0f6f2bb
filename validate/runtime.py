"""What validation asks of a runtime, and the table of runtimes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from targets.names import choose
from targets.status import Status
from validate.measurement import Placement

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WEIGHTS = "weights"
DEPLOYED = "deployed"


@dataclass(frozen=True)
class Coverage:
    """How much of the golden set a slow stand-in of a device is asked for.

    Attributes:
        windows: texts.
        prefill: tokens of each that are computed in one prefill.
        decode: tokens after them that are computed one at a time.
    """

    windows: int
    prefill: int
    decode: int

    @property
    def tokens(self) -> int:
        """Tokens of each text."""
        return self.prefill + self.decode


@dataclass(frozen=True)
class Generation:
    """One greedy generation, timed.

    Attributes:
        tokens: the new tokens, without the one that ended it.
        ttft_s: seconds from the request to the first token.
        intervals_s: seconds between tokens.
    """

    tokens: tuple[int, ...]
    ttft_s: float
    intervals_s: tuple[float, ...]


class Session(Protocol):
    """One sequence, fed by token ids, giving logits."""

    def reset(self) -> None:
        """Forget the sequence."""
        ...

    def step(self, tokens: "NDArray[np.int64]") -> "NDArray[np.float32]":
        """Logits [n, vocab] of the next n tokens [n]."""
        ...


class Pipeline(Protocol):
    """The generation pipeline a product calls."""

    def generate(self, prompt: Sequence[int], new_tokens: int, stop: bool) -> Generation:
        """Greedy tokens after `prompt`: exactly `new_tokens` unless `stop` lets an end token end it earlier."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids by the package's own tokenizer; nothing is added in front."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text by the package's own tokenizer, special tokens left out."""
        ...

    def apply_template(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> str:
        """The prompt of a conversation by the runtime's own template engine."""
        ...

    def write_json(self, prompt: Sequence[int], schema: str, new_tokens: int) -> str:
        """Greedy text that the runtime's own structured output keeps to a JSON schema."""
        ...

    def chat(self, user: str, new_tokens: int) -> str:
        """Text in, text out, through the package's own chat template and tokenizer."""
        ...


class Runtime(Protocol):
    """A runtime that loads packages."""

    @property
    def evidence(self) -> Status | None:
        """What running `DEPLOYED` here is: `simulated`, `emulated`, or `prepared` where it cannot run here.

        None when this machine has the device, or one of its kind: then everything is measured.
        """
        ...

    @property
    def coverage(self) -> Coverage | None:
        """How much of the golden set a simulator or an emulator is asked for; None: all of it."""
        ...

    def session(self, package: Path, settings: Mapping[str, Any], setting: str) -> Session:
        """A session in one setting: `WEIGHTS` (float32 arithmetic on a CPU) or `DEPLOYED` (as it ships).

        Raises:
            DeviceMissing: `DEPLOYED`, and neither the device nor a stand-in is here.
        """
        ...

    def pipeline(self, package: Path, settings: Mapping[str, Any]) -> Pipeline | None:
        """The pipeline as it ships, or None where none runs."""
        ...

    def placement(self, package: Path, settings: Mapping[str, Any]) -> tuple[Placement, ...]:
        """Requested and actual device of every session that the package opens."""
        ...

    def versions(self) -> dict[str, str]:
        """Name and version of every part of the runtime."""
        ...


@runtime_checkable
class StaticShapes(Protocol):
    """A runtime whose packages run at fixed lengths."""

    def boundaries(self, package: Path, settings: Mapping[str, Any]) -> tuple[Session, tuple[int, ...]]:
        """A session as it ships, and the prompt lengths on both sides of every boundary of its shapes, ascending.

        After a prompt the session may give the last position's logits alone.
        """
        ...


@dataclass(frozen=True)
class RuntimeEntry:
    """One row of the table.

    Attributes:
        module: of `validate`, imported on use, so that a device needs only the runtime it ships.
        class_name: the runtime in it; None when the back end has none.
        tools: distributions whose version can change a measurement.
    """

    module: str
    class_name: str | None
    tools: tuple[str, ...]


OPENVINO = ("openvino", "openvino-genai", "openvino-tokenizers")

RUNTIMES: dict[str, RuntimeEntry] = {
    "null": RuntimeEntry("runtime", None, ()),
    "onnxruntime": RuntimeEntry("onnxruntime_runtime", "OnnxRuntime", ("onnxruntime", "onnxruntime-genai")),
    "openvino": RuntimeEntry("openvino_runtime", "OpenVino", OPENVINO),
    "onnxruntime-webgpu": RuntimeEntry("webgpu_runtime", "WebGpu", ("onnxruntime", "onnxruntime-ep-webgpu")),
    "openvino-gpu": RuntimeEntry("openvino_gpu_runtime", "OpenVinoGpu", OPENVINO),
    "openvino-npu": RuntimeEntry("openvino_npu_runtime", "OpenVinoNpu", OPENVINO),
    "ryzen-ai": RuntimeEntry("ryzen_ai_runtime", "RyzenAi", ("onnxruntime",)),
    "qnn": RuntimeEntry("qnn_runtime", "Qnn", ("onnxruntime", "onnxruntime-qnn")),
}


def find_entry(backend: str) -> RuntimeEntry:
    """The row of a back end's runtime.

    Raises:
        UsageError: no such back end.
    """
    return choose(backend, RUNTIMES, "runtime")


def find_runtime(backend: str) -> Runtime | None:
    """The runtime of a back end, or None for one that has none.

    Raises:
        UsageError: no such back end.
    """
    entry = find_entry(backend)
    if entry.class_name is None:
        return None
    runtime: Runtime = getattr(import_module(f"validate.{entry.module}"), entry.class_name)()
    return runtime
