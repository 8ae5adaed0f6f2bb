"""The decoders we build: what their config.json must say, and the tensors they consist of."""

from dataclasses import dataclass
from typing import Any

from targets.errors import InputRefused

MAX_DIMENSION = 1 << 24
MAX_LAYERS = 1 << 10


@dataclass(frozen=True)
class Architecture:
    """One decoder of the Llama family.

    Attributes:
        model_type: its name in config.json.
        qkv_bias: query, key and value projections always have a bias.
        qk_norm: queries and keys are normalised per head.
        head_dim: what transformers assumes when config.json is silent; None is hidden size over heads.
    """

    model_type: str
    qkv_bias: bool = False
    qk_norm: bool = False
    head_dim: int | None = None


# Only what exports with attention spelled out and a KV cache; a name here is a promise.
ARCHITECTURES: dict[str, Architecture] = {
    "LlamaForCausalLM": Architecture("llama"),
    "MistralForCausalLM": Architecture("mistral"),
    "Qwen2ForCausalLM": Architecture("qwen2", qkv_bias=True),
    "Qwen3ForCausalLM": Architecture("qwen3", qk_norm=True, head_dim=128),
}


@dataclass(frozen=True)
class Dimensions:
    """The sizes of a decoder; `head_dim` is in features, `max_positions` in tokens."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    max_positions: int
    tied_embeddings: bool


def architecture_of(config: dict[str, Any], where: str) -> Architecture:
    """The entry of `ARCHITECTURES` that config.json names.

    Raises:
        InputRefused: it names none, several, or one that is not in the table.
    """
    names = config.get("architectures")
    known = f"known: {', '.join(ARCHITECTURES)}"
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise InputRefused(f"{where} does not name one architecture", known)
    if names[0] not in ARCHITECTURES:
        raise InputRefused(f"{where} names the architecture '{names[0]}'", known)
    architecture = ARCHITECTURES[names[0]]
    if config.get("model_type") != architecture.model_type:
        raise InputRefused(
            f"{where} names {names[0]} and the model type {config.get('model_type')!r}",
            f"set model_type to '{architecture.model_type}'",
        )
    return architecture


def dimensions_of(config: dict[str, Any], where: str) -> Dimensions:
    """The sizes in config.json.

    Raises:
        InputRefused: a size is missing, absurd, or does not fit the others.
    """
    architecture = architecture_of(config, where)
    hidden, heads = _size(config, "hidden_size", where), _size(config, "num_attention_heads", where)
    implied = {"num_key_value_heads": heads} if architecture.model_type == "llama" else {}
    kv_heads = _size(implied | config, "num_key_value_heads", where)
    head_dim = config.get("head_dim") or architecture.head_dim or hidden // heads
    found = Dimensions(
        vocab_size=_size(config, "vocab_size", where),
        hidden_size=hidden,
        intermediate_size=_size(config, "intermediate_size", where),
        n_layers=_size(config, "num_hidden_layers", where, MAX_LAYERS),
        n_heads=heads,
        n_kv_heads=kv_heads,
        head_dim=_size({"head_dim": head_dim}, "head_dim", where),
        max_positions=_size(config, "max_position_embeddings", where),
        tied_embeddings=config.get("tie_word_embeddings", False) is True,
    )
    if heads % kv_heads or found.head_dim % 2:
        raise InputRefused(f"{where} has {heads} heads over {kv_heads} of {found.head_dim}", "correct config.json")
    return found


def expected_tensors(config: dict[str, Any], where: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the decoder; a tied head is not among them.

    Raises:
        InputRefused: as `dimensions_of`, or for an option that is not built here.
    """
    sizes = dimensions_of(config, where)
    if config.get("mlp_bias"):
        raise InputRefused(f"{where} asks for mlp_bias, which is not built here", "use a model without it")
    embedding = {"model.embed_tokens.weight": (sizes.vocab_size, sizes.hidden_size)}
    layers = {
        f"model.layers.{layer}.{name}": shape
        for layer in range(sizes.n_layers)
        for name, shape in _layer(config, architecture_of(config, where), sizes).items()
    }
    head = {} if sizes.tied_embeddings else {"lm_head.weight": (sizes.vocab_size, sizes.hidden_size)}
    return embedding | layers | {"model.norm.weight": (sizes.hidden_size,)} | head


def _layer(config: dict[str, Any], architecture: Architecture, sizes: Dimensions) -> dict[str, tuple[int, ...]]:
    hidden, wide = sizes.hidden_size, sizes.intermediate_size
    outputs = {"q": sizes.n_heads * sizes.head_dim, "k": sizes.n_kv_heads * sizes.head_dim}
    outputs["v"] = outputs["k"]
    tensors: dict[str, tuple[int, ...]] = {"input_layernorm.weight": (hidden,)}
    for name, size in outputs.items():
        tensors[f"self_attn.{name}_proj.weight"] = (size, hidden)
    tensors["self_attn.o_proj.weight"] = (hidden, outputs["q"])
    every_bias = bool(config.get("attention_bias")) and architecture.model_type in {"llama", "qwen3"}
    if architecture.qkv_bias or every_bias:
        tensors |= {f"self_attn.{name}_proj.bias": (size,) for name, size in outputs.items()}
    if every_bias:
        tensors["self_attn.o_proj.bias"] = (hidden,)
    if architecture.qk_norm:
        tensors |= {f"self_attn.{name}_norm.weight": (sizes.head_dim,) for name in ("q", "k")}
    tensors["post_attention_layernorm.weight"] = (hidden,)
    tensors |= {f"mlp.{name}_proj.weight": (wide, hidden) for name in ("gate", "up")}
    return tensors | {"mlp.down_proj.weight": (hidden, wide)}


def _size(config: dict[str, Any], key: str, where: str, limit: int = MAX_DIMENSION) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
        raise InputRefused(f"{where} has {key} = {value!r}", f"it must be a whole number from 1 to {limit}")
    return value
