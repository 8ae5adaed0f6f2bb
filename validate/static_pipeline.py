"""Generate text with graphs of fixed shapes: the loop, the tokenizer and the chat template a product would have."""

import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from validate.chat import render_prompt
from validate.golden import end_tokens
from validate.runtime import Generation
from validate.static_session import StaticSession


class StaticPipeline:
    """Greedy generation over a `StaticSession`."""

    def __init__(self, session: StaticSession, package: Path) -> None:
        from tokenizers import Tokenizer

        self.session, self.package = session, package
        self.tokenizer = Tokenizer.from_file(str(package / "tokenizer.json"))
        self.ends = end_tokens(package)

    def generate(self, prompt: Sequence[int], new_tokens: int, stop: bool) -> Generation:
        """Greedy tokens after `prompt`, timed around each run."""
        self.session.reset()
        step = np.array(prompt, np.int64)
        tokens: list[int] = []
        times: list[float] = []
        start = time.perf_counter()
        while len(tokens) < new_tokens:
            token = int(self.session.step(step)[-1].argmax())
            if stop and token in self.ends:
                break
            times.append(time.perf_counter())
            tokens.append(token)
            step = np.array([token], np.int64)
        intervals = tuple(after - before for before, after in itertools.pairwise(times))
        return Generation(tuple(tokens), (times[0] if times else time.perf_counter()) - start, intervals)

    def encode(self, text: str) -> list[int]:
        """Ids by the package's tokenizer."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text by the package's tokenizer, special tokens left out."""
        return str(self.tokenizer.decode(list(ids)))

    def chat(self, user: str, new_tokens: int) -> str:
        """One turn through the chat template."""
        prompt = self.encode(render_prompt(self.package, user))
        return self.decode(self.generate(prompt, new_tokens, stop=True).tokens)
