"""Let the float model write its own calibration text."""

from collections.abc import Iterator
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from export.model import Model
from export.strict_json import read_object
from quantize.calibration import Progress
from quantize.calibration_plan import CalibrationPlan
from quantize.decoder import load_decoder
from quantize.precision import fast_type

if TYPE_CHECKING:
    import torch

TO_BE_SAMPLED = -1


def sample_text(
    model: Model, prompts: list[dict[str, Any]], plan: CalibrationPlan, progress: Progress
) -> NDArray[np.int64]:
    """[sequences, tokens]: prompts in turn, each continued until the model ends it, then the next one.

    Sampled from the whole distribution at the plan's temperature, seeded. Repeats on the same machine with the same
    number of threads; elsewhere the last bits of a logit, and with them a token, may differ.
    """
    import torch

    decoder = load_decoder(model.folder).to(fast_type())
    source = cycle(tokenize(model, prompts))
    ends = end_tokens(model)
    tokens = torch.full((plan.sequences, plan.tokens), TO_BE_SAMPLED)
    for row in tokens:
        write(row, 0, source)
    generator = torch.Generator().manual_seed(plan.seed)
    cache, done = growing_cache(plan.tokens), 0
    while True:
        known = int((tokens >= 0).long().cumprod(1).sum(1).min())
        if known == plan.tokens:
            return tokens.numpy()
        with torch.no_grad():
            step = decoder(tokens[:, done:known], past_key_values=cache, use_cache=True, logits_to_keep=1)
        done = known
        drawn = draw(step.logits[:, -1].float() / plan.temperature, generator)
        for row, token in zip(tokens, drawn.tolist(), strict=True):
            if row[done] == TO_BE_SAMPLED:
                row[done] = token
                if token in ends:
                    write(row, done + 1, source)
        progress(done * plan.sequences, plan.tokens * plan.sequences)


def draw(logits: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
    """One token for each row of logits [rows, vocab], by inverting the cumulative distribution.

    `torch.multinomial` draws a random number for every token of the vocabulary, and takes as long as the decoder.
    """
    import torch

    cumulative = logits.softmax(-1).cumsum(-1)
    marks = torch.rand(len(logits), 1, generator=generator) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, marks, right=True)[:, 0].clamp_(max=logits.shape[1] - 1)


def growing_cache(length: int) -> Any:
    """A KV cache of at most `length` tokens that is written in place: concatenating would copy it at every step."""
    from transformers import DynamicCache

    class GrowingCache(DynamicCache):  # type: ignore[misc]
        """Buffers allocated once; what is handed out is a view of the part that is filled."""

        def __init__(self) -> None:
            super().__init__()
            self.buffers: dict[int, tuple[Any, Any]] = {}
            self.filled: dict[int, int] = {}

        def update(self, key: Any, value: Any, layer: int, _: Any = None) -> tuple[Any, Any]:
            if layer not in self.buffers:
                shape = (*key.shape[:2], length, key.shape[3])
                self.buffers[layer] = key.new_empty(shape), value.new_empty(shape)
            begin = self.filled.get(layer, 0)
            self.filled[layer] = end = begin + key.shape[2]
            for buffer, new in zip(self.buffers[layer], (key, value), strict=True):
                buffer[:, :, begin:end] = new
            keys, values = self.buffers[layer]
            return keys[:, :, :end], values[:, :, :end]

        def get_seq_length(self, layer: int = 0) -> int:
            return self.filled.get(layer, 0)

        def get_mask_sizes(self, positions: Any, layer: int) -> tuple[int, int]:
            return self.get_seq_length(layer) + len(positions), 0

    return GrowingCache()


def write(row: "torch.Tensor", start: int, source: Iterator[list[int]]) -> None:
    """Put the next prompt into row [tokens] from `start` on, as far as it fits."""
    import torch

    if start < len(row):
        prompt = next(source)[: len(row) - start]
        row[start : start + len(prompt)] = torch.tensor(prompt)


def tokenize(model: Model, prompts: list[dict[str, Any]]) -> list[list[int]]:
    """The prompts' ids; a request stands in the chat template when the model has one."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model.folder, local_files_only=True, trust_remote_code=False)
    found = []
    for prompt in prompts:
        if prompt["kind"] == "request" and tokenizer.chat_template:
            turns = [{"role": "user", "content": prompt["text"]}]
            found.append(list(tokenizer.apply_chat_template(turns, add_generation_prompt=True)))
        else:
            found.append(list(tokenizer(prompt["text"], add_special_tokens=False).input_ids))
    return [ids for ids in found if ids]


def end_tokens(model: Model) -> frozenset[int]:
    """The ids that end a text, from generation_config.json."""
    named = read_object(model.folder / "generation_config.json", 1 << 20).get("eos_token_id")
    return frozenset(named if isinstance(named, list) else [named] if named is not None else [])
