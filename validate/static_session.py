"""The host's loop around graphs of fixed shapes: one that takes a chunk of tokens, one that takes a single one.

Both read one KV cache of fixed length, whose slots fill from the front. A graph's inputs are, with n for the tokens it
takes and c for the slots of the cache:

    input_ids       int32 [1, n]      the new tokens from the left; after the last one, anything
    position_ids    int32 [1, n]      the position of each; after the last one, anything below c + n
    attention_mask  int32 [1, c + n]  1 for every filled slot and for every new token, 0 elsewhere
    past_key_values.<layer>.{key,value}  float32 [1, kv_heads, c, head_dim], finite everywhere

and its outputs `logits` [1, n, vocab] and `present.<layer>.{key,value}` [1, kv_heads, n, head_dim]. A chunk that is
not full is padded on the right: the graph is causal, so nothing before the padding sees it, and the loop drops what
comes out for it. After a run the loop copies the new tokens' keys and values into the next free slots. Nothing is ever
shifted: keys carry their rotation already, so a slot's place in the cache does not matter.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from targets.errors import InputRefused

PAST, PRESENT = "past_key_values.", "present."


class StaticSession:
    """One sequence through a prefill graph and a decode graph, fed by token ids."""

    def __init__(self, prefill: Any, decode: Any) -> None:
        """Take two `onnxruntime.InferenceSession`s of the same model, with caches of the same length."""
        self.prefill, self.decode = prefill, decode
        shapes = {one.name: tuple(one.shape) for one in prefill.get_inputs()}
        self.chunk = int(shapes["input_ids"][1])
        self.context = int(shapes["attention_mask"][1]) - self.chunk
        self.cache = {name: np.zeros(shape, np.float32) for name, shape in shapes.items() if name.startswith(PAST)}
        self.length = 0

    def reset(self) -> None:
        """Forget the sequence."""
        self.length = 0
        for slots in self.cache.values():
            slots.fill(0)

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens; slots after them are filled again before they are seen."""
        self.length = min(self.length, length)

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits [n, vocab] of the next n tokens [n].

        Raises:
            InputRefused: the cache has no room for them.
        """
        if self.length + len(tokens) > self.context:
            raise InputRefused(
                f"a sequence of {self.length + len(tokens)} tokens does not fit the package's {self.context}",
                "shorten it, or build with a longer `context`",
            )
        starts = range(0, len(tokens), self.chunk)
        return np.concatenate([self.run(tokens[start : start + self.chunk]) for start in starts])

    def run(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits of at most a chunk of tokens, by the graph that fits."""
        count = len(tokens)
        graph, width = (self.decode, 1) if count == 1 else (self.prefill, self.chunk)
        ids = np.zeros((1, width), np.int32)
        ids[0, :count] = tokens
        mask = np.zeros((1, self.context + width), np.int32)
        mask[0, : self.length] = 1
        mask[0, self.context : self.context + count] = 1
        positions = self.length + np.arange(width, dtype=np.int32)[None]
        names = [output.name for output in graph.get_outputs()]
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **self.cache}
        results = dict(zip(names, graph.run(None, feeds), strict=True))
        for name, slots in self.cache.items():
            new = results[name.replace(PAST, PRESENT)]
            slots[:, :, self.length : self.length + count] = new[:, :, :count]
        self.length += count
        return np.array(results["logits"][0, :count], dtype=np.float32)
