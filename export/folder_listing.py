"""Which files of a Hugging Face folder make the model, and which must not be there at all."""

import os
from pathlib import Path

from targets.errors import InputRefused

# The names a model is made of; everything else in a folder stays behind.
JSON_LIMITS = {
    "config.json": 1 << 20,
    "generation_config.json": 1 << 20,
    "model.safetensors.index.json": 16 << 20,
    "special_tokens_map.json": 1 << 20,
    "tokenizer.json": 128 << 20,
    "tokenizer_config.json": 16 << 20,
}
REQUIRED = ("config.json", "tokenizer.json", "tokenizer_config.json")
TEMPLATE = "chat_template.jinja"
MAX_TEMPLATE = 64 << 10
CARD = "README.md"
MAX_CARD = 4 << 20
INDEX = "model.safetensors.index.json"
CODE = (".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".exe", ".sh")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".h5", ".keras", ".msgpack")
# What version control and downloaders leave behind; nothing is read from there.
IGNORED_FOLDERS = (".git", ".cache")
MAX_ENTRIES = 10_000


def list_model_files(folder: Path) -> tuple[str, ...]:
    """The sorted names of the files of `folder` that an import reads.

    Raises:
        InputRefused: the folder holds a link, a program, or weights in no other form than pickles; it lacks its
            configuration, its tokenizer or its weights; a file is absurdly large; or it cannot be read.
    """
    entries = _walk(folder)
    for entry in entries:
        if entry.suffix.lower() in CODE:
            raise InputRefused(
                f"{entry} is a program, and a model needs none", "remove it, or use a model without code"
            )
    names = {entry.name for entry in entries if entry.parent == folder}
    weights = _weights(folder, names)
    for name in REQUIRED:
        if name not in names:
            raise InputRefused(f"{folder} has no {name}", _missing(name))
    _check_sizes(folder, names)
    return tuple(sorted({*weights, *(names & {*JSON_LIMITS, TEMPLATE, CARD})}))


def _walk(folder: Path) -> list[Path]:
    """Every regular file below `folder`."""
    found: list[Path] = []
    pending = [folder]
    while pending:
        try:
            inside = sorted(os.scandir(pending.pop()), key=lambda entry: entry.name)
        except OSError as error:
            raise InputRefused(
                f"{folder} cannot be read: {error.strerror}", "check the path and its permissions"
            ) from error
        for entry in inside:
            if entry.is_symlink() or not (entry.is_dir() or entry.is_file()):
                raise InputRefused(
                    f"{entry.path} is a link or a device", "copy the folder with `cp -rL` and give the copy"
                )
            if entry.is_file():
                found.append(Path(entry.path))
            elif entry.name not in IGNORED_FOLDERS:
                pending.append(Path(entry.path))
        if len(found) + len(pending) > MAX_ENTRIES:
            raise InputRefused(f"{folder} holds more than {MAX_ENTRIES} files", "give the folder of one model")
    return found


def _weights(folder: Path, names: set[str]) -> set[str]:
    if "model.safetensors" in names:
        return {"model.safetensors"}
    shards = {name for name in names if name.endswith(".safetensors")}
    if INDEX in names and shards:
        return shards
    pickles = sorted(name for name in names if name.lower().endswith(PICKLES))
    if pickles:
        raise InputRefused(
            f"{folder} has its weights only as {pickles[0]}, a format that can run code when it is read",
            "convert it to safetensors where it was made: model.save_pretrained(folder, safe_serialization=True)",
        )
    raise InputRefused(f"{folder} has no model.safetensors", "give a Hugging Face folder with safetensors weights")


def _check_sizes(folder: Path, names: set[str]) -> None:
    """What is read or hashed whole has a size worth reading."""
    for name, limit in {**JSON_LIMITS, TEMPLATE: MAX_TEMPLATE, CARD: MAX_CARD}.items():
        if name in names and (folder / name).lstat().st_size > limit:
            raise InputRefused(f"{folder / name} is larger than {limit} bytes", "give the folder of one model")


def _missing(name: str) -> str:
    if name == "config.json":
        return "give a Hugging Face folder: config.json, tokenizer.json and safetensors weights"
    return "save it beside the model: AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
