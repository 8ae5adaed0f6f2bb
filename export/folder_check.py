"""Prove that a Hugging Face folder is one of the decoders we build, whole and without surprises."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from export.architectures import expected_tensors
from export.config_check import CODE_KEYS, check_config
from export.folder_listing import INDEX, JSON_LIMITS, MAX_TEMPLATE, TEMPLATE, list_model_files
from export.safetensors_check import StoredTensor, check_safetensors
from export.strict_json import read_object
from targets.errors import InputRefused

FLOATS = ("F32", "F16", "BF16")
_SHARD = re.compile(r"[A-Za-z0-9][\w.-]{0,200}\.safetensors", re.ASCII)
# Tables that older checkpoints store and newer code computes.
_COMPUTED = "rotary_emb.inv_freq"


def check_folder(folder: Path) -> dict[str, Any]:
    """The config.json of `folder`, once everything that will be loaded has been checked.

    Raises:
        InputRefused: the folder is incomplete, unsafe, quantized already, or not of a known architecture.
    """
    names = list_model_files(folder)
    parsed = {name: read_object(folder / name, JSON_LIMITS[name]) for name in names if name in JSON_LIMITS}
    for name, value in parsed.items():
        # A vocabulary may hold any word.
        if name != "tokenizer.json":
            _refuse_code(folder / name, value)
    config = parsed["config.json"]
    check_config(folder / "config.json", config)
    last_token = _check_tokenizer(folder / "tokenizer.json", parsed["tokenizer.json"])
    chat_template(folder)
    _check_weights(folder, config, parsed.get(INDEX))
    if last_token >= config["vocab_size"]:
        fault = f"has the token {last_token} and no embedding for it"
        raise InputRefused(f"{folder / 'tokenizer.json'} {fault}", f"the model has {config['vocab_size']} embeddings")
    return config


def chat_template(folder: Path) -> str | None:
    """The chat template of a folder, from its own file or from tokenizer_config.json; None when there is none.

    Raises:
        InputRefused: it is not text, or longer than 64 KiB.
    """
    path = folder / TEMPLATE
    if path.is_file():
        if path.stat().st_size > MAX_TEMPLATE:
            raise InputRefused(f"{path} is larger than {MAX_TEMPLATE} bytes", "use a model with a plain chat template")
        try:
            return path.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise InputRefused(f"{path} is not UTF-8", "save it as UTF-8") from error
    where = folder / "tokenizer_config.json"
    template = read_object(where, JSON_LIMITS[where.name]).get("chat_template")
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    if template is not None and (not isinstance(template, str) or len(template.encode()) > MAX_TEMPLATE):
        raise InputRefused(f"{where} has a chat template that is no text of up to {MAX_TEMPLATE} bytes", "shorten it")
    return template


def weight_files(folder: Path) -> tuple[str, ...]:
    """The names of the safetensors files of a checked folder."""
    return tuple(name for name in list_model_files(folder) if name.endswith(".safetensors"))


def _refuse_code(path: Path, value: Any) -> None:
    for key in _keys(value):
        if key in CODE_KEYS:
            raise InputRefused(f"{path} has the key '{key}', which runs code", "use a model of a known architecture")


def _keys(value: Any) -> Iterator[str]:
    """Every key at any depth; the parser has bounded the depth."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            yield from item
        pending += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()


def _check_tokenizer(path: Path, value: dict[str, Any]) -> int:
    """It is of a known kind and loads; the largest id it gives."""
    from tokenizers import Tokenizer

    model = value.get("model")
    if not isinstance(model, dict) or model.get("type") not in {"BPE", "Unigram"}:
        raise InputRefused(f"{path} is not a BPE or Unigram tokenizer", "give the tokenizer.json of the model")
    try:
        ids = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True).values()
    except Exception as error:  # the Rust library raises this very class
        raise InputRefused(f"{path} cannot be loaded: {error}", "save the tokenizer again") from error
    return max(ids, default=0)


def _check_weights(folder: Path, config: dict[str, Any], index: dict[str, Any] | None) -> None:
    """Every tensor of the architecture is there once, as a float of the right shape."""
    stored: dict[str, StoredTensor] = {}
    for name in weight_files(folder):
        tensors = check_safetensors(folder / name)
        if index is not None and name != "model.safetensors":
            _check_shard(folder, index, name, set(tensors))
        for tensor in stored.keys() & tensors.keys():
            raise InputRefused(f"{folder} stores '{tensor}' twice", "download the folder again")
        stored |= tensors
    expected = expected_tensors(config, str(folder / "config.json"))
    for tensor, shape in expected.items():
        if tensor not in stored:
            raise InputRefused(f"{folder} lacks the tensor '{tensor}'", "download the folder again")
        if stored[tensor].shape != shape or stored[tensor].dtype not in FLOATS:
            found = f"{stored[tensor].dtype} {list(stored[tensor].shape)}"
            raise InputRefused(f"'{tensor}' in {folder} is {found}, not a float {list(shape)}", "give the float model")
    # transformers ties the head whatever the file says.
    allowed = {"lm_head.weight"} if config.get("tie_word_embeddings") else set()
    surplus = [name for name in stored if name not in {*expected, *allowed} and not name.endswith(_COMPUTED)]
    if surplus:
        raise InputRefused(f"{folder} has the tensor '{min(surplus)}', which has no place in it", "use the plain model")


def _check_shard(folder: Path, index: dict[str, Any], shard: str, tensors: set[str]) -> None:
    """The index names exactly what the shards hold, by plain file names."""
    weight_map = index.get("weight_map")
    where = folder / INDEX
    if not isinstance(weight_map, dict):
        raise InputRefused(f"{where} has no weight_map", "download the folder again")
    for name in weight_map.values():
        if not isinstance(name, str) or not _SHARD.fullmatch(name) or not (folder / name).is_file():
            raise InputRefused(f"{where} points to {name!r}, which is no file of the folder", "download it again")
    if {tensor for tensor, name in weight_map.items() if name == shard} != tensors:
        raise InputRefused(f"{where} and {shard} do not hold the same tensors", "download the folder again")
