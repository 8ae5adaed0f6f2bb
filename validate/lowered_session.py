"""One sequence through ONNX Runtime itself on a graph lowered for it, the KV cache carried from step to step."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from validate.onnxruntime_runtime import FLOAT32_LEVEL, GRAPH, with_accuracy_level

CPU = "CPUExecutionProvider"
FOLDER = "session.model_external_initializers_file_folder_path"


class LoweredSession:
    """A graph with `GroupQueryAttention`: `input_ids`, `attention_mask` and the caches in, logits and caches out."""

    def __init__(self, session: Any, held: Mapping[str, Any] | None = None) -> None:
        self.session = session
        self.held = held  # what the session reads where it is
        self.names = [output.name for output in session.get_outputs()]
        caches = [each for each in session.get_inputs() if each.name.startswith("past_key_values.")]
        self.empty = {each.name: np.zeros((1, each.shape[1], 0, each.shape[3]), np.float32) for each in caches}
        self.past: dict[str, NDArray[np.float32]] = dict(self.empty)
        self.length = 0

    def reset(self) -> None:
        """Forget the sequence."""
        self.past = dict(self.empty)
        self.length = 0

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self.past = {name: cache[:, :, :length] for name, cache in self.past.items()}
        self.length = length

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits [n, vocab] of the next n tokens [n]."""
        self.length += len(tokens)
        feeds = {"input_ids": tokens[None], "attention_mask": np.ones((1, self.length), np.int64), **self.past}
        found = dict(zip(self.names, self.session.run(None, feeds), strict=True))
        self.past = {name: found[name.replace("past_key_values", "present")] for name in self.past}
        return np.asarray(found["logits"][0], dtype=np.float32)


def float32_session(folder: Path, shipped_level: int, replaced: Mapping[str, NDArray[Any]]) -> LoweredSession:
    """The graph in `folder` on the CPU with float32 products.

    Args:
        folder: of `model.onnx` and its weights.
        shipped_level: accuracy level of the graph's MatMulNBits.
        replaced: initializers to put in place of the graph's own, by name.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(FOLDER, str(folder))
    held = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in replaced.items()}
    for name, value in held.items():
        options.add_initializer(name, value)
    graph = with_accuracy_level((folder / GRAPH).read_bytes(), shipped_level, FLOAT32_LEVEL)
    return LoweredSession(onnxruntime.InferenceSession(graph, options, providers=[CPU]), held)
