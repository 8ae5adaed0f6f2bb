"""A small decoder that was really trained, in half a minute, on sentences made here: weights with structure."""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.tiny_folder import load_model, load_tokenizer, write_folder

WHO = ("the driver", "a neighbour", "my sister", "the old baker", "our teacher", "the night guard", "a young doctor")
DOES = ("opens", "closes", "washes", "repairs", "paints", "forgets", "borrows", "sells")
WHAT = ("the red door", "a small boat", "the garden gate", "two windows", "the kitchen clock", "a broken chair")
WHEN = ("in the morning", "before lunch", "on Sunday", "after the rain", "every evening", "at half past nine")
WHY = ("because it is late", "because nobody else does", "and then goes home", "while the radio plays")

SIZES = {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
LENGTH = 96


def sentences(seed: int) -> Iterator[str]:
    """Without end: sentences with a habit each person keeps, so that there is something to learn."""
    chance = random.Random(seed)  # noqa: S311 - text, not secrets
    for _ in itertools.count():
        who = chance.choice(WHO)
        habit = WHO.index(who)
        does = DOES[(habit + chance.randrange(3)) % len(DOES)]
        what, when = chance.choice(WHAT), WHEN[(habit + chance.randrange(2)) % len(WHEN)]
        yield f"{who.capitalize()} {does} {what} {when} {chance.choice(WHY)}. "


def token_rows(folder: Path, seed: int, rows: int) -> NDArray[np.int64]:
    """[rows, LENGTH] token ids of fresh sentences."""
    tokenizer, source = load_tokenizer(folder), sentences(seed)
    ids: list[int] = []
    while len(ids) < rows * LENGTH:
        ids += tokenizer(next(source), add_special_tokens=False).input_ids
    return np.array(ids[: rows * LENGTH], np.int64).reshape(rows, LENGTH)


def train_folder(folder: Path, model_type: str, steps: int = 300, **changes: Any) -> Path:
    """Train a decoder of that family and save it in `folder` for `import_model`."""
    import torch

    write_folder(folder, model_type=model_type, **(SIZES | changes))
    model = load_model(folder)
    torch.manual_seed(3)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98))
    data = torch.from_numpy(token_rows(folder, 1, 8 * 60))
    for step in range(steps):
        rows = data[(step * 8) % len(data) :][:8]
        loss = model(rows, labels=rows).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
    model.eval().save_pretrained(folder)
    return folder
