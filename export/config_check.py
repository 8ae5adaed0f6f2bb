"""What a config.json may ask for beyond its sizes: no code, and only the numbers and names that are built here."""

import math
from pathlib import Path
from typing import Any

from export.architectures import expected_tensors
from targets.errors import InputRefused

# Keys by which a configuration makes a library import code.
CODE_KEYS = frozenset(
    {"auto_map", "trust_remote_code", "custom_pipeline", "custom_pipelines", "custom_generate"}
    | {"model_file", "plugins", "_target_"}
)
# Rotary scalings that are the same at every length: others would be frozen at the length of the export.
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
# transformers looks names up in torch, in its table of activations, and attention on a hub.
DTYPES = (None, "auto", "float32", "float16", "bfloat16")
ATTENTION = (None, "eager", "sdpa", "flash_attention_2")
ACTIVATION = "silu"


def check_config(path: Path, config: dict[str, Any]) -> None:
    """Prove that `config`, read from `path`, describes a float decoder that is built here.

    Raises:
        InputRefused: it does not.
    """
    expected_tensors(config, str(path))
    if config.get("quantization_config"):
        raise InputRefused(f"{path} describes a quantized model", "give the float model it was made from")
    _check_names(path, config)
    for key in ("rms_norm_eps", "rope_theta"):
        if key in config:
            _positive(path, key, config[key])
    _check_scaling(path, config.get("rope_scaling"))
    window, limit = config.get("sliding_window"), config["max_position_embeddings"]
    slides = config.get("use_sliding_window", config["model_type"] == "mistral")
    if slides and window is not None and not (isinstance(window, int) and window >= limit):
        raise InputRefused(f"{path} limits attention to a window of {window!r}", "use a model with full attention")


def _check_names(path: Path, config: dict[str, Any]) -> None:
    for key, known in {
        "hidden_act": (ACTIVATION,),
        "torch_dtype": DTYPES,
        "dtype": DTYPES,
        "attn_implementation": ATTENTION,
        "_attn_implementation": ATTENTION,
    }.items():
        value = config.get(key, known[0])
        if not any(value == each for each in known):
            raise InputRefused(f"{path} has {key} = {value!r}", f"known: {', '.join(str(each) for each in known)}")


def _check_scaling(path: Path, scaling: Any) -> None:
    kind = scaling.get("rope_type", scaling.get("type")) if isinstance(scaling, dict) else scaling
    if kind is None:
        return
    if kind not in ROPE_TYPES or not isinstance(scaling, dict):
        raise InputRefused(f"{path} scales its rotary embedding by {kind!r}", f"known: {', '.join(ROPE_TYPES)}")
    for key, value in scaling.items():
        if key not in {"rope_type", "type"} and value is not None and not isinstance(value, bool):
            _positive(path, f"rope_scaling.{key}", value)


def _positive(path: Path, key: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < 1e12 or not math.isfinite(value):
        raise InputRefused(f"{path} has {key} = {value!r}", "it must be a number above 0")
