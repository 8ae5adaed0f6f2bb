"""Compare the hub's logits with a reference's: one prefill and three decode steps."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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
    """The largest absolute difference of logits between the hub and a reference, both in float32.

    Attributes:
        prefill: over all positions of `PREFILL_TOKENS` random tokens.
        decode: for each of the steps that follow, greedy tokens, KV cache carried along.
        logits_scale: the largest absolute logit seen, to read the differences against.
        reference: what was compared with: `PyTorch`, or `NumPy` for the plain decoder of `export.reference`.
        layers: which layers both were made of; empty for all.
    """

    prefill: float
    decode: tuple[float, ...]
    logits_scale: float
    reference: str = "PyTorch"
    layers: tuple[int, ...] = ()

    @property
    def worst(self) -> float:
        """The largest of all differences."""
        return max(self.prefill, *self.decode)


def check_parity(torch_model: "torch.nn.Module", graph: Path, facts: ModelFacts, weights: Path | None = None) -> Parity:
    """Run both models on the same tokens; `weights` is where the graph's external data are, if not beside it.

    Raises:
        StageFailed: a difference above `MAX_ABS_DIFFERENCE`.
    """
    return compare(HubSession(graph, facts, weights), TorchSession(torch_model), facts.vocab_size, "PyTorch")


class Session(Protocol):
    """One sequence through one model."""

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits [1, n, vocab] of the next `n` tokens [1, n]."""
        ...


def compare(hub: Session, reference: Session, vocab_size: int, name: str, layers: tuple[int, ...] = ()) -> Parity:
    """Run both on the same tokens, the reference's greedy ones after the first step.

    Raises:
        StageFailed: a difference above `MAX_ABS_DIFFERENCE`.
    """
    tokens = np.random.default_rng(SEED).integers(0, vocab_size, (1, PREFILL_TOKENS), dtype=np.int64)
    differences, scale = [], 0.0
    for _ in range(1 + DECODE_STEPS):
        ours, theirs = hub.step(tokens), reference.step(tokens)
        differences.append(float(np.abs(ours - theirs).max()))
        scale = max(scale, float(np.abs(theirs).max()))
        tokens = theirs[:, -1:].argmax(-1)
    parity = Parity(differences[0], tuple(differences[1:]), scale, name, layers)
    if not parity.worst <= MAX_ABS_DIFFERENCE:  # written so that NaN fails
        raise StageFailed(
            f"the hub's logits differ from {name}'s by {parity.worst:.2e} (at most {MAX_ABS_DIFFERENCE:.0e})",
            "report this model: its export is wrong",
        )
    return parity


class HubSession:
    """The hub in ONNX Runtime on the CPU in float32, one sequence, the KV cache carried from step to step."""

    def __init__(self, graph: Path | bytes, facts: ModelFacts, weights: Path | None = None, lean: bool = False) -> None:
        """Open a graph.

        Args:
            graph: the ONNX file, or its bytes.
            facts: its sizes.
            weights: the folder of its external data, where that is not the graph's.
            lean: read the weights where they are mapped, in place of copies that are transposed and packed beforehand.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        if weights is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights))
            graph = graph.read_bytes() if isinstance(graph, Path) else graph
        if lean:
            options.add_session_config_entry("session.disable_prepacking", "1")
            # What is widened for one product is given back before the next; the arena would keep all of it.
            options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        folding = ["ConstantFolding"] if lean else None
        # A quantized hub's products become MatMulNBits as the session starts, by default on int8 activations.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        self.session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=folding
        )
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
