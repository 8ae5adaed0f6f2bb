"""Compare the hub's logits with PyTorch's: one prefill and three decode steps."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from export.model import ModelFacts
from targets.errors import StageFailed

if TYPE_CHECKING:
    import torch

PREFILL_TOKENS = 48
DECODE_STEPS = 3
MAX_ABS_DIFFERENCE = 1e-3
SEED = 20260101


@dataclass(frozen=True)
class Parity:
    """The largest absolute difference of logits between the hub and PyTorch, both in float32.

    Attributes:
        prefill: over all positions of `PREFILL_TOKENS` random tokens.
        decode: for each of the steps that follow, greedy tokens, KV cache carried along.
        logits_scale: the largest absolute logit seen, to read the differences against.
    """

    prefill: float
    decode: tuple[float, ...]
    logits_scale: float

    @property
    def worst(self) -> float:
        """The largest of all differences."""
        return max(self.prefill, *self.decode)


def check_parity(torch_model: "torch.nn.Module", graph: Path, facts: ModelFacts) -> Parity:
    """Run both models on the same tokens.

    Raises:
        StageFailed: a difference above `MAX_ABS_DIFFERENCE`.
    """
    tokens = np.random.default_rng(SEED).integers(0, facts.vocab_size, (1, PREFILL_TOKENS), dtype=np.int64)
    hub = HubSession(graph, facts)
    reference = TorchSession(torch_model)
    differences, scale = [], 0.0
    for _ in range(1 + DECODE_STEPS):
        ours, theirs = hub.step(tokens), reference.step(tokens)
        differences.append(float(np.abs(ours - theirs).max()))
        scale = max(scale, float(np.abs(theirs).max()))
        tokens = theirs[:, -1:].argmax(-1)
    parity = Parity(differences[0], tuple(differences[1:]), scale)
    if not parity.worst <= MAX_ABS_DIFFERENCE:  # written so that NaN fails
        raise StageFailed(
            f"the hub's logits differ from PyTorch's by {parity.worst:.2e} (at most {MAX_ABS_DIFFERENCE:.0e})",
            "report this model: its export is wrong",
        )
    return parity


class HubSession:
    """The hub in ONNX Runtime on the CPU in float32, one sequence, the KV cache carried from step to step."""

    def __init__(self, graph: Path, facts: ModelFacts) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # A quantized hub's products become MatMulNBits as the session starts, by default on int8 activations.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]
        self.empty = np.zeros((1, facts.n_kv_heads, 0, facts.head_dim), np.float32)
        self.past: dict[str, NDArray[np.float32]] = {}
        self.length = 0
        self.reset()

    def reset(self) -> None:
        """Forget the sequence."""
        self.past = {name.replace("present", "past_key_values"): self.empty for name in self.names[1:]}
        self.length = 0

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits [1, n, vocab] of the next `n` tokens [1, n]."""
        start, self.length = self.length, self.length + tokens.shape[1]
        feeds = {
            "input_ids": tokens,
            "attention_mask": np.ones((1, self.length), np.int64),
            "position_ids": np.arange(start, self.length, dtype=np.int64)[None],
        }
        logits, *present = self.session.run(None, {**feeds, **self.past})
        self.past = dict(zip(self.past, present, strict=True))
        return np.asarray(logits, dtype=np.float32)


class TorchSession:
    """The PyTorch model, one sequence, the KV cache carried from step to step."""

    def __init__(self, model: "torch.nn.Module") -> None:
        self.model = model
        self.cache: Any = None

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits [1, n, vocab] of the next `n` tokens [1, n]."""
        import torch

        with torch.no_grad():
            result = self.model(input_ids=torch.from_numpy(tokens), past_key_values=self.cache, use_cache=True)
        self.cache = result.past_key_values
        return np.asarray(result.logits.numpy(), dtype=np.float32)
