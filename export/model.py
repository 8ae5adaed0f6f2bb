"""Import a source as a `Model`: a checked Hugging Face folder with safetensors, the same bytes every time."""

import errno
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from export.architectures import dimensions_of, expected_tensors
from export.catalog import CATALOG, fetch
from export.finite_check import check_finite
from export.folder_check import chat_template, check_folder, weight_files
from export.folder_listing import CARD, TEMPLATE, list_model_files
from export.gguf_config import config_of
from export.gguf_reader import read_gguf
from export.gguf_tokenizer import write_tokenizer
from export.gguf_vocabulary import read_vocabulary
from export.gguf_weights import quantized_source, write_weights
from export.hub_fetch import fetch_hub
from export.licence import licence_of_card, spdx
from export.source import CatalogName, GgufFile, HubId, LocalFolder, Source, source_identity, source_name
from export.strict_json import read_object, write_json
from export.template_check import check_template
from targets.errors import InputRefused, NoSpace

PROVENANCE = "provenance.json"
Progress = Callable[[int, int], None]


# What a runtime needs beside the weights to turn text into tokens and back; `chat_template.jinja` may be absent.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", TEMPLATE)


def ignore(done: int, total: int) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class ModelFacts:
    """What every later stage wants to know of a model, wherever its files are.

    Attributes:
        name: fit for a folder name.
        architecture: the model_type of config.json.
        parameters: how many weights there are, a tied embedding counted once.
        head_dim: features of one attention head.
        max_positions: the longest context, in tokens.
        licence: SPDX identifier, or NOASSERTION when the source does not say.
        source: kind, name and digest or revision of what was imported.
        quantized_source: the block type that the weights were stored in before, as `Q4_1`. Weights that already sit
            on a grid make every scheme on the same grid look lossless.
    """

    name: str
    architecture: str
    parameters: int
    vocab_size: int
    hidden_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    max_positions: int
    tied_embeddings: bool
    licence: str
    source: dict[str, str]
    quantized_source: str | None


@dataclass(frozen=True)
class Model(ModelFacts):
    """A decoder with float weights, in a folder that transformers loads without network or foreign code.

    Attributes:
        folder: config.json, generation_config.json, safetensors, tokenizer files, provenance.json.
    """

    folder: Path

    @property
    def facts(self) -> ModelFacts:
        """The same without the folder, for the values that descend from this one."""
        return ModelFacts(**{field.name: getattr(self, field.name) for field in fields(ModelFacts)})


def import_model(source: Source, out: Path, cache: Path, progress: Progress = ignore) -> Model:
    """Write the model that `source` names into the empty folder `out`; downloads are kept below `cache`.

    Progress is told of a folder's bytes, (done, in all): each is copied and then, in weights, looked at.

    Raises:
        InputRefused: the source is unsafe, incomplete or not supported.
        DeviceMissing: it must be downloaded and cannot be.
        IntegrityError: a download is not what was pinned.
        NoSpace: `out` cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        licence, quantized = _import(source, out, cache, progress)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
            raise NoSpace(
                f"{out} cannot be written: {error.strerror}", "free some space, or choose another folder"
            ) from error
        raise
    facts = {"name": source_name(source), "licence": licence, "quantized_source": quantized}
    write_json(out / PROVENANCE, {**facts, "source": source_identity(source)})
    return read_model(out)


def read_model(folder: Path) -> Model:
    """The `Model` in a folder that `import_model` wrote, checked again.

    Raises:
        InputRefused: the folder is not one of those, or no longer sound.
    """
    config = check_folder(folder)
    facts = read_object(folder / PROVENANCE, 1 << 20)
    where = str(folder / "config.json")
    sizes = dimensions_of(config, where)
    shapes = expected_tensors(config, where).values()
    try:
        name, licence, source, quantized = (facts[key] for key in ("name", "licence", "source", "quantized_source"))
    except KeyError as error:
        raise InputRefused(f"{folder / PROVENANCE} has no {error}", "import the model again") from error
    return Model(
        folder=folder,
        name=name,
        architecture=config["model_type"],
        parameters=sum(_product(shape) for shape in shapes),
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.hidden_size,
        n_layers=sizes.n_layers,
        n_heads=sizes.n_heads,
        n_kv_heads=sizes.n_kv_heads,
        head_dim=sizes.head_dim,
        max_positions=sizes.max_positions,
        tied_embeddings=sizes.tied_embeddings,
        licence=licence,
        source=dict(source),
        quantized_source=quantized,
    )


def _import(source: Source, out: Path, cache: Path, progress: Progress) -> tuple[str, str | None]:
    """Write the folder; the licence and the block type of the source."""
    match source:
        case CatalogName(name):
            _, quantized = _import_gguf(fetch(CATALOG[name], cache), out)
            return CATALOG[name].licence, quantized
        case GgufFile(path):
            return _import_gguf(path, out)
        case HubId(owner_name, revision):
            return _import_folder(fetch_hub(owner_name, revision, cache), out, progress), None
        case LocalFolder(path):
            return _import_folder(path, out, progress), None


def _import_gguf(path: Path, out: Path) -> tuple[str, str | None]:
    gguf = read_gguf(path)
    vocabulary = read_vocabulary(gguf)
    if vocabulary.chat_template is not None:
        check_template(vocabulary.chat_template, str(path))
    config = config_of(gguf, vocabulary)
    write_weights(gguf, config, out / "model.safetensors")
    write_json(out / "config.json", config)
    write_tokenizer(vocabulary, config["max_position_embeddings"], out)
    return spdx(gguf.metadata.get("general.license")), quantized_source(gguf)


def _import_folder(folder: Path, out: Path, progress: Progress) -> str:
    """Copy what looks sound; the copy is checked when it is read: what was checked is what will be loaded."""
    config = check_folder(folder)
    names = [name for name in list_model_files(folder) if name != CARD]
    sizes = {name: (folder / name).stat().st_size for name in names}
    done, total = 0, sum(sizes.values()) + sum(sizes[name] for name in weight_files(folder))
    for name in names:
        shutil.copyfile(folder / name, out / name, follow_symlinks=False)
        progress(done := done + sizes[name], total)
    for name in weight_files(out):
        check_finite(out / name)
        progress(done := done + sizes[name], total)
    template = chat_template(out)
    if template is not None:
        check_template(template, str(folder))
        (out / TEMPLATE).write_bytes(template.encode())
    if not (out / "generation_config.json").exists():
        write_json(out / "generation_config.json", _token_ids(config))
    return licence_of_card(folder / CARD)


def _token_ids(config: dict[str, Any]) -> dict[str, Any]:
    return {key: config.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
