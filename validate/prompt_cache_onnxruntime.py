"""A prompt cache through ONNX Runtime: past keys and values are inputs of the shipped graph.

ONNX Runtime GenAI (0.18) hands out copies of its KV cache and ignores one that is set as a model input, so a state is
loaded one level below: the same `model.onnx` in an `InferenceSession` with the same kernels, its KV buffers shared
between past and present as GenAI shares them. The graph, the tokenizer and the logits are those of GenAI, bit for bit;
the loop around them is this one, greedy.
"""

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from targets.errors import StageFailed, UsageError
from validate.onnxruntime_runtime import GRAPH, PROVIDER
from validate.runtime import Generation

PAST, PRESENT = "past_key_values.", "present."
PARTS = ("key", "value")
ANSWER = 1024  # tokens of room after the prefix, where nobody asks for more


class OnnxRuntimeLoader:
    """ONNX Runtime's CPU execution provider."""

    def compute_state(self, folder: Path, settings: Mapping[str, Any], tokens: Sequence[int]) -> NDArray[Any]:
        """The state after `tokens`, [layers, 2, KV heads, tokens, head size], in the cache's own type."""
        decoder = CachedDecoder(folder, None, len(tokens))
        decoder.step(np.array(tokens, np.int64))
        return np.array([[buffer[0, :, : len(tokens)] for buffer in layer] for layer in decoder.views])

    def cached_session(self, folder: Path, settings: Mapping[str, Any], state: NDArray[Any]) -> "CachedDecoder":
        """Logits of what follows the prefix."""
        return CachedDecoder(folder, state)

    def cached_pipeline(self, folder: Path, settings: Mapping[str, Any], state: NDArray[Any]) -> "CachedPipeline":
        """A greedy loop over that."""
        return CachedPipeline(folder, state)


LOADER = OnnxRuntimeLoader()


class CachedDecoder:
    """One sequence through the package's graph, begun after a prefix."""

    def __init__(self, folder: Path, state: NDArray[Any] | None, room: int = ANSWER) -> None:
        """Load the graph and put `state` into its buffers, which have room for `room` tokens more."""
        import onnxruntime

        self.session = onnxruntime.InferenceSession(folder / GRAPH, providers=[PROVIDER])
        config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
        self.prefix = 0 if state is None else state.shape[3]
        self.capacity = min(self.prefix + room, int(config["model"]["context_length"]))
        self.length = self.prefix
        self.buffers: dict[str, Any] = {}
        self.views: list[list[NDArray[Any]]] = []
        for layer in range(int(config["model"]["decoder"]["num_hidden_layers"])):
            self.views.append([self.allocate(f"{layer}.{part}") for part in PARTS])
        if state is not None:
            self.fill(state)

    def allocate(self, name: str) -> NDArray[Any]:
        """A zeroed buffer [1, KV heads, capacity, head size] that is past and present at once."""
        import onnxruntime

        described = next(each for each in self.session.get_inputs() if each.name == PAST + name)
        kind = {"tensor(float)": np.float32, "tensor(int8)": np.int8}[described.type]
        empty = np.zeros((1, described.shape[1], self.capacity, described.shape[3]), kind)
        self.buffers[name] = onnxruntime.OrtValue.ortvalue_from_numpy(empty)
        view: NDArray[Any] = self.buffers[name].numpy()
        return view

    def fill(self, state: NDArray[Any]) -> None:
        """Copy the state in front of each buffer. Later tokens come behind it, so this is done once.

        Raises:
            StageFailed: it has other layers, sizes or another type than the graph.
        """
        first = self.views[0][0]
        expected = (len(self.views), 2, first.shape[1], self.prefix, first.shape[3])
        if state.shape != expected or state.dtype != first.dtype:
            raise StageFailed(
                f"a state of {state.dtype} {state.shape} is not of this model, which takes {first.dtype} {expected}",
                "build the bundle again",
            )
        for layer, views in enumerate(self.views):
            for part, view in enumerate(views):
                view[0, :, : self.prefix] = state[layer, part]

    def reset(self) -> None:
        """Go back to the end of the prefix."""
        self.length = self.prefix

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits [n, vocab] of the next n tokens [n].

        Raises:
            UsageError: the buffers are full.
        """
        start, self.length = self.length, self.length + len(tokens)
        if self.length > self.capacity:
            raise UsageError(f"{self.length} tokens in a KV cache for {self.capacity}", "load it with more room")
        binding = self.session.io_binding()
        binding.bind_cpu_input("input_ids", tokens[None].astype(np.int64))
        binding.bind_cpu_input("attention_mask", np.ones((1, start + len(tokens)), np.int64))
        binding.bind_output("logits")
        for name, buffer in self.buffers.items():
            binding.bind_ortvalue_input(PAST + name, buffer)
            binding.bind_ortvalue_output(PRESENT + name, buffer)
        self.session.run_with_iobinding(binding)
        logits: NDArray[np.float32] = binding.get_outputs()[0].numpy()[0]
        return logits


class CachedPipeline:
    """Greedy generation after the prefix, until one of the package's own end tokens."""

    def __init__(self, folder: Path, state: NDArray[Any]) -> None:
        self.decoder = CachedDecoder(folder, state)
        ends = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"].get("eos_token_id", [])
        self.ends = frozenset(np.atleast_1d(ends).tolist())

    def generate(self, prompt: Sequence[int], new_tokens: int, stop: bool) -> Generation:
        """Greedy tokens after the prefix and `prompt`, timed around each step."""
        tokens: list[int] = []
        times: list[float] = []
        self.decoder.reset()
        start = time.perf_counter()
        logits = self.decoder.step(np.array(prompt, np.int64))
        while len(tokens) < new_tokens:
            token = int(logits[-1].argmax())
            times.append(time.perf_counter())
            if stop and token in self.ends:
                break
            tokens.append(token)
            if len(tokens) < new_tokens:
                logits = self.decoder.step(np.array([token], np.int64))
        intervals = tuple(after - before for before, after in itertools.pairwise(times))
        return Generation(tuple(tokens), times[0] - start, intervals)
