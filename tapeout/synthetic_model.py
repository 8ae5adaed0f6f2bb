"""Write a Llama-shaped folder with random bfloat16 weights, to see what a build of that size takes.

`python -m tapeout.synthetic_model SIZE TOKENIZER_FOLDER OUT`
"""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.architectures import expected_tensors
from export.folder_listing import INDEX
from export.model import TOKENIZER_FILES
from targets.names import choose

SEED = 20261125
SPREAD = 0.02  # what decoders are initialised with
SHARD_BYTES = 2 << 30
BLOCK = 1 << 24

# (hidden, intermediate, layers, heads, KV heads, tied): SmolLM2's two, then the shapes of TinyLlama 1.1B, Llama 3.2 3B
# and Llama 2 7B, all with SmolLM2's vocabulary, so that one tokenizer serves them.
SHAPES: Mapping[str, tuple[int, int, int, int, int, bool]] = {
    "135m": (576, 1536, 30, 9, 3, True),
    "360m": (960, 2560, 32, 15, 5, True),
    "1.1b": (2048, 5632, 22, 32, 4, False),
    "3b": (3072, 8192, 28, 24, 8, True),
    "7b": (4096, 11008, 32, 32, 32, False),
}


def configuration(size: str, vocab_size: int) -> dict[str, Any]:
    """config.json of one size.

    Raises:
        UsageError: no such size.
    """
    hidden, wide, layers, heads, kv_heads, tied = choose(size, SHAPES, "size")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": wide,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab_size,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
    }


def write_synthetic(size: str, tokenizer: Path, out: Path) -> None:
    """Write the folder `out`: shards of at most 2 GiB with an index, and the tokenizer of another model's folder."""
    out.mkdir(parents=True)
    for name in (*TOKENIZER_FILES, "generation_config.json"):
        if (tokenizer / name).exists():
            shutil.copyfile(tokenizer / name, out / name)
    vocab_size = json.loads((tokenizer / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    config = configuration(size, vocab_size)
    (out / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    shards = list(split(expected_tensors(config, size)))
    random = np.random.default_rng(SEED)
    places: dict[str, str] = {}
    for number, shapes in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        places |= dict.fromkeys(shapes, name)
        write_shard(out / name, shapes, random)
    index = {"metadata": {}, "weight_map": places}
    (out / INDEX).write_text(json.dumps(index), encoding="utf-8")


def split(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[dict[str, tuple[int, ...]]]:
    """The tensors by shard."""
    shard: dict[str, tuple[int, ...]] = {}
    held = 0
    for name, shape in shapes.items():
        n_bytes = 2 * int(np.prod(shape, dtype=np.int64))
        if shard and held + n_bytes > SHARD_BYTES:
            yield shard
            shard, held = {}, 0
        shard[name], held = shape, held + n_bytes
    yield shard


def write_shard(path: Path, shapes: Mapping[str, tuple[int, ...]], random: np.random.Generator) -> None:
    """One safetensors file of bfloat16 tensors: norms are ones, everything else is normal.

    A weight is cut from one block of random numbers, from a place of its own: drawing billions would take longer than
    the build.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    block = narrow(random.standard_normal(BLOCK, np.float32) * np.float32(SPREAD))
    with path.open("xb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            left = int(np.prod(shape, dtype=np.int64))
            if len(shape) == 1:
                stream.write(narrow(np.ones(left, np.float32)).data)
                continue
            start = int(random.integers(BLOCK))
            while left:
                part = block[start : start + left]
                stream.write(part.data)
                start, left = 0, left - len(part)


def narrow(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """bfloat16 numbers: the upper halves of float32 ones."""
    return (values.view(np.uint32) >> 16).astype("<u2")


if __name__ == "__main__":
    write_synthetic(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
