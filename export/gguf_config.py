"""The config.json of the decoder in a GGUF file."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from export.gguf_cursor import refuse
from export.gguf_fields import optional, required
from export.gguf_reader import GgufModel
from export.gguf_rope import rope_scaling
from export.gguf_vocabulary import Vocabulary
from targets.errors import InputRefused


@dataclass(frozen=True)
class GgufArchitecture:
    """How llama.cpp stores one architecture.

    Attributes:
        class_name: its entry in `export.architectures`.
        interleaved: the rows of query and key are reordered so that rotary pairs are neighbours.
    """

    class_name: str
    model_type: str
    interleaved: bool


GGUF_ARCHITECTURES: dict[str, GgufArchitecture] = {
    "llama": GgufArchitecture("LlamaForCausalLM", "llama", interleaved=True),
    "qwen2": GgufArchitecture("Qwen2ForCausalLM", "qwen2", interleaved=False),
}
DEFAULT_THETA = 10000.0


def architecture_of_gguf(gguf: GgufModel) -> GgufArchitecture:
    """The architecture that the file names.

    Raises:
        InputRefused: it names none, or one that is not known here, or holds only a part of a model.
    """
    name = required(gguf, "general.architecture", str)
    if name not in GGUF_ARCHITECTURES:
        known = ", ".join(sorted(GGUF_ARCHITECTURES))
        raise InputRefused(f"{gguf.path} holds a model of architecture '{name}'", f"known architectures: {known}")
    if (optional(gguf, "split.count", int) or 1) > 1:
        raise InputRefused(f"{gguf.path} is one part of a split model", "merge its parts with llama-gguf-split --merge")
    if optional(gguf, f"{name}.expert_count", int):
        raise InputRefused(f"{gguf.path} is a mixture of experts", "use a dense model")
    return GGUF_ARCHITECTURES[name]


def config_of(gguf: GgufModel, vocabulary: Vocabulary) -> dict[str, Any]:
    """The content of config.json.

    Raises:
        InputRefused: a field is missing, or asks for something that cannot be said there.
    """
    architecture = architecture_of_gguf(gguf)
    prefix = architecture.model_type
    shapes = {tensor.name: tensor.shape for tensor in gguf.tensors}
    hidden = required(gguf, f"{prefix}.embedding_length", int)
    heads = required(gguf, f"{prefix}.attention.head_count", int)
    head_dim = _head_dim(gguf, prefix, hidden, heads)
    theta = _positive(gguf, f"{prefix}.rope.freq_base", DEFAULT_THETA)
    biases = {"attention_bias": False, "mlp_bias": False} if prefix == "llama" else {"use_sliding_window": False}
    return {
        "architectures": [architecture.class_name],
        "model_type": prefix,
        "bos_token_id": vocabulary.special.get("bos"),
        "eos_token_id": vocabulary.special["eos"],
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": required(gguf, f"{prefix}.feed_forward_length", int),
        "max_position_embeddings": required(gguf, f"{prefix}.context_length", int),
        "num_attention_heads": heads,
        "num_hidden_layers": required(gguf, f"{prefix}.block_count", int),
        "num_key_value_heads": optional(gguf, f"{prefix}.attention.head_count_kv", int) or heads,
        "rms_norm_eps": _positive(gguf, f"{prefix}.attention.layer_norm_rms_epsilon"),
        "rope_scaling": rope_scaling(gguf, prefix, theta, head_dim),
        "rope_theta": theta,
        "tie_word_embeddings": "output.weight" not in shapes,
        "torch_dtype": "float32",
        "vocab_size": _vocab_size(gguf, shapes, vocabulary),
        **biases,
    }


def _head_dim(gguf: GgufModel, prefix: str, hidden: int, heads: int) -> int:
    if not 1 <= heads <= hidden or hidden % heads:
        raise refuse(gguf.path, f"{heads} heads do not share {hidden} features")
    names = ("attention.key_length", "attention.value_length", "rope.dimension_count")
    key, value, rotary = (optional(gguf, f"{prefix}.{name}", int) for name in names)
    head_dim = hidden // heads if key is None else key
    # Rotating a part of a head is another architecture in transformers.
    if head_dim < 1 or any(size not in {None, head_dim} for size in (value, rotary)):
        raise InputRefused(f"{gguf.path} has heads of unequal parts: {key}, {value}, {rotary}", "use another model")
    return head_dim


def _vocab_size(gguf: GgufModel, shapes: dict[str, tuple[int, ...]], vocabulary: Vocabulary) -> int:
    rows = shapes.get("token_embd.weight", (0,))[0]
    if rows < len(vocabulary.tokens):
        raise refuse(gguf.path, f"it has {len(vocabulary.tokens)} tokens and {rows} embeddings")
    return rows


def _positive(gguf: GgufModel, key: str, default: float | None = None) -> float:
    """A float32 field as the shortest decimal that is the same: 1e-05, not 9.999999747378752e-06."""
    value = required(gguf, key, float) if default is None or key in gguf.metadata else default
    if not 0 < value < np.finfo(np.float32).max:
        raise refuse(gguf.path, f"the field '{key}' is {value}")
    return float(str(np.float32(value)))
