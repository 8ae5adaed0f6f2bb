"""What validation asks of a runtime, and the table of runtimes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from targets.names import choose
from validate.measurement import Placement

WEIGHTS = "weights"
DEPLOYED = "deployed"


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

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
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

    def chat(self, user: str, new_tokens: int) -> str:
        """Text in, text out, through the package's own chat template and tokenizer."""
        ...


class Runtime(Protocol):
    """A runtime that loads packages."""

    def session(self, package: Path, settings: Mapping[str, Any], setting: str) -> Session:
        """A session in one setting: `WEIGHTS` (float32 arithmetic) or `DEPLOYED` (as it ships)."""
        ...

    def pipeline(self, package: Path, settings: Mapping[str, Any]) -> Pipeline:
        """The pipeline as it ships."""
        ...

    def placement(self, package: Path, settings: Mapping[str, Any]) -> Placement:
        """Requested and actual device."""
        ...

    def versions(self) -> dict[str, str]:
        """Name and version of every part of the runtime."""
        ...


# Module and class by back end; imported on use, so that a device needs only the runtime it ships.
RUNTIMES: dict[str, tuple[str, str]] = {
    "onnxruntime": ("validate.onnxruntime_runtime", "OnnxRuntime"),
    "openvino": ("validate.openvino_runtime", "OpenVino"),
}


def find_runtime(backend: str) -> Runtime | None:
    """The runtime of a back end, or None for `null`, which has none.

    Raises:
        UsageError: no such back end.
    """
    if backend == "null":
        return None
    module, name = choose(backend, RUNTIMES, "runtime")
    runtime: Runtime = getattr(import_module(module), name)()
    return runtime
