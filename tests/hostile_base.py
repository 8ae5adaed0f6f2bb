"""The sound models that hostile ones are made from, written without any library that loads models."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.architectures import expected_tensors
from export.safetensors_writer import stream_safetensors
from export.strict_json import write_json
from tests.tiny_folder import add_tokenizer
from tests.tiny_gguf import byte_level

VOCABULARY = byte_level("gpt-2")
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": len(VOCABULARY.tokens),
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}
NORM = "model.norm.weight"

# A hostile model: what is done to a copy of the sound one, and a part of what the refusal must say.
Damage = Callable[[Path], object]
Cases = dict[str, tuple[Damage, str]]


def write_sound(folder: Path) -> Path:
    """A folder that is imported."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", CONFIG)
    stream_safetensors(folder / "model.safetensors", expected_tensors(CONFIG, "CONFIG"), _values)
    add_tokenizer(folder, VOCABULARY, 64)
    return folder


def _values(name: str) -> Iterator[NDArray[np.float32]]:
    shape = expected_tensors(CONFIG, "CONFIG")[name]
    yield np.random.default_rng(len(name)).normal(0, 0.1, shape).astype(np.float32)


def edit(name: str, **changes: Any) -> Damage:
    """Set keys of a JSON file of the folder."""

    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def write(name: str, data: bytes | str) -> Damage:
    """Put a file into the folder."""

    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())

    return change


def read_header(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header and the data of a sound safetensors file."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def write_header(path: Path, header: dict[str, Any] | bytes, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def header(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Change the parsed header of the weights."""

    def damage(folder: Path) -> None:
        found, data = read_header(folder / "model.safetensors")
        change(found)
        write_header(folder / "model.safetensors", found, data)

    return damage


def raw_header(text: bytes) -> Damage:
    """Put another text in the place of the header."""

    def damage(folder: Path) -> None:
        write_header(folder / "model.safetensors", text, read_header(folder / "model.safetensors")[1])

    return damage


def sparse(name: str, size: int) -> Damage:
    """A file of that size which takes no room on disk."""

    def damage(folder: Path) -> None:
        with (folder / name).open("ab") as stream:
            stream.truncate(size)

    return damage
