"""A Hugging Face folder of a tiny decoder, written by transformers itself."""

import json
from pathlib import Path
from typing import Any

from tests.tiny_gguf import Vocabulary, byte_level, write_vocabulary


def write_folder(folder: Path, shard_bytes: int | None = None, model_type: str = "llama", **changes: Any) -> Path:
    """Save a seeded decoder of two layers in `folder`; `changes` go to its configuration."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    vocabulary = byte_level("gpt-2", {"tokenizer.chat_template": "{{ messages[0]['content'] }}"})
    torch.manual_seed(1)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": len(vocabulary.tokens),
        "max_position_embeddings": 64,
    } | changes
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **sizes))
    model.save_pretrained(folder, max_shard_size=shard_bytes or "1GB")
    add_tokenizer(folder, vocabulary, sizes["max_position_embeddings"])
    (folder / "README.md").write_text("---\nlicense: mit\ntags: []\n---\n# A model\n")
    return folder


def add_tokenizer(folder: Path, vocabulary: Vocabulary, longest: int) -> None:
    """Write the tokenizer files of `vocabulary`, for a context of `longest` tokens."""
    from export.gguf_reader import read_gguf
    from export.gguf_tokenizer import write_tokenizer
    from export.gguf_vocabulary import read_vocabulary

    path = write_vocabulary(folder / "vocabulary.gguf", vocabulary)
    write_tokenizer(read_vocabulary(read_gguf(path)), longest, folder)
    path.unlink()


def spread_vectors(folder: Path) -> None:
    """Give norms and biases, which transformers starts with ones and zeros, seeded values of their own."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    random = np.random.default_rng(2)
    tensors = load_file(folder / "model.safetensors")
    for name in sorted(tensors):
        if tensors[name].ndim == 1:
            tensors[name] = tensors[name] + random.normal(0, 0.2, tensors[name].shape).astype(np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def load_tokenizer(folder: Path) -> Any:
    """What transformers makes of the tokenizer files."""
    from transformers import AutoTokenizer

    auto: Any = AutoTokenizer
    return auto.from_pretrained(folder, local_files_only=True)


def load_model(folder: Path, **options: Any) -> Any:
    """What transformers makes of the weights, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    return auto.from_pretrained(folder, dtype=torch.float32, local_files_only=True, **options).eval()


def compile_tokenizer(loaded: Any) -> tuple[Any, Any]:
    """OpenVINO's tokenizer and detokenizer of a loaded tokenizer, compiled for the CPU."""
    import openvino
    from openvino_tokenizers import convert_tokenizer

    forward, back = convert_tokenizer(loaded, with_detokenizer=True)
    core = openvino.Core()
    return core.compile_model(forward, "CPU"), core.compile_model(back, "CPU")
