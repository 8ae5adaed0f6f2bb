"""A shipped prompt cache: the KV state of a fixed prefix, and what it is tied to.

A state is numbers without a meaning of their own: loaded into other weights, another runtime or behind another
tokenizer it gives fluent nonsense. So it carries the digest of the package that computed it and is refused elsewhere.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compile.package import Package
from export.digest import digest_file, digest_files, list_files
from export.strict_json import read_object, write_json
from targets.errors import DeviceMissing, IntegrityError, UsageError
from targets.names import choose
from validate.kv_cache import shipped_precision
from validate.prompt_prefix import Prefix, prefix_tokens
from validate.runtime import Generation, Session

SCHEMA = 1
STATE, DESCRIPTION, PREFIX = "state.npy", "prompt_cache.json", "prefix.json"
LIMIT = 16 << 20  # bytes of the description
REBUILD = "build the bundle again with --prefix: a state belongs to one package"

# Back ends whose runtime can be given a state, the module that does it, and the distributions that decide its form.
LOADERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "openvino": ("prompt_cache_openvino", ("openvino", "openvino-genai")),
    "onnxruntime": ("prompt_cache_onnxruntime", ("onnxruntime",)),
}
# Why the others cannot be, for the report.
CANNOT: Mapping[str, str] = {
    "onnxruntime-webgpu": "ONNX Runtime GenAI keeps the GPU's KV cache to itself and has no call that loads one",
    "openvino-gpu": "no Intel GPU is here to prove a loaded state on",
    "openvino-npu": "NPUW keeps the KV cache of its static graphs to itself",
    "qnn": "the host's loop around static graphs of this release starts with an empty cache",
    "ryzen-ai": "AMD's runtime compiles its own graphs on the device",
}


@dataclass(frozen=True)
class PromptCache:
    """The KV state of a prefix.

    Attributes:
        folder: `state.npy`, `prefix.json` (system prompt and tools), and the other fields in `prompt_cache.json`.
        backend: whose runtime computed it.
        package: digest of the files of the package that computed it.
        tokenizer: SHA-256 of that package's `tokenizer.json`.
        versions: of the runtime.
        precision: of the KV cache that it is loaded into.
        prefix: digest of the system prompt and the tools.
        tokens: of the prefix.
        state: SHA-256 of `state.npy`, [layers, 2 (keys, values), KV heads, tokens, head size].
    """

    folder: Path
    backend: str
    package: str
    tokenizer: str
    versions: dict[str, str]
    precision: str
    prefix: str
    tokens: tuple[int, ...]
    state: str

    def load(self) -> NDArray[Any]:
        """The state, mapped from its file."""
        array: NDArray[Any] = np.load(self.folder / STATE, mmap_mode="r", allow_pickle=False)
        return array

    def rest(self, prompt: Sequence[int]) -> list[int]:
        """What of a prompt comes after the prefix.

        Raises:
            UsageError: the prompt does not begin with the prefix, or ends with it.
        """
        if tuple(prompt[: len(self.tokens)]) != self.tokens or len(prompt) == len(self.tokens):
            raise UsageError(
                "the prompt does not begin with the cached prefix and go on after it",
                "render the conversation with the same system prompt and tools, or load the package without the cache",
            )
        return list(prompt[len(self.tokens) :])


class Answering(Protocol):
    """Whatever generates."""

    def generate(self, prompt: Sequence[int], new_tokens: int, stop: bool) -> Generation:
        """Greedy tokens after `prompt`: exactly `new_tokens` unless `stop` lets an end token end it earlier."""
        ...


class StateLoader(Protocol):
    """What a module of `LOADERS` offers."""

    def compute_state(self, folder: Path, settings: Mapping[str, Any], tokens: Sequence[int]) -> NDArray[Any]:
        """The state after `tokens` as the package in `folder` computes it."""
        ...

    def cached_session(self, folder: Path, settings: Mapping[str, Any], state: NDArray[Any]) -> Session:
        """Logits of whatever follows the prefix; `reset` goes back to its end."""
        ...

    def cached_pipeline(self, folder: Path, settings: Mapping[str, Any], state: NDArray[Any]) -> Answering:
        """The pipeline a product calls; prompts go on after the prefix."""
        ...


def find_loader(backend: str) -> StateLoader:
    """What computes and loads states of a back end.

    Raises:
        UsageError: its runtime cannot be given a state.
    """
    module, _ = choose(backend, LOADERS, "back end that loads a prompt cache")
    loader: StateLoader = import_module(f"validate.{module}").LOADER
    return loader


def make_prompt_cache(package: Package, prefix: Prefix, out: Path) -> PromptCache:
    """Compute the state of a prefix through the runtime that ships, and write it to the empty folder `out`.

    Raises:
        InputRefused: the model's template or context does not take the prefix.
        UsageError: the back end's runtime cannot be given a state.
    """
    tokens = prefix_tokens(package.folder, prefix, package.facts.max_positions)
    state = find_loader(package.backend).compute_state(package.folder, package.settings, tokens)
    np.save(out / STATE, state, allow_pickle=False)
    made = PromptCache(
        folder=out,
        prefix=prefix.digest,
        tokens=tuple(tokens),
        state=digest_file(out / STATE),
        **identify(package.folder, package.backend, precision_of(package.backend, package.settings)),
    )
    write_json(out / PREFIX, {"system": prefix.system, "tools": list(prefix.tools)})
    described = {"schema": SCHEMA, **dataclasses.asdict(made), "folder": None}
    write_json(out / DESCRIPTION, {name: value for name, value in described.items() if name != "folder"})
    return made


def identify(folder: Path, backend: str, precision: str) -> dict[str, Any]:
    """What a state is tied to, as it is here."""
    return {
        "backend": backend,
        "package": digest_files(list_files(folder)),
        "tokenizer": digest_file(folder / "tokenizer.json"),
        "versions": {name: installed(name) for name in LOADERS[backend][1]},
        "precision": precision,
    }


def precision_of(backend: str, settings: Mapping[str, Any]) -> str:
    """What the KV cache is stored in with these settings.

    Raises:
        UsageError: they do not say.
    """
    found = shipped_precision(backend, settings)
    if found is None:
        raise UsageError("the package's settings do not say what its KV cache is stored in", REBUILD)
    return found


def installed(name: str) -> str:
    """Version of a distribution, or `absent`."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def open_prompt_cache(cache: Path, package: Path, settings: Mapping[str, Any]) -> PromptCache:
    """The state in `cache` for the package in `package`, loaded with `settings`, everything it is tied to verified.

    Raises:
        InputRefused: no such description, or a damaged one.
        UsageError: another KV precision than the state was computed for.
        DeviceMissing: another version of the runtime.
        IntegrityError: another package or tokenizer, or a damaged state.
    """
    stored = read_object(cache / DESCRIPTION, LIMIT)
    schema = stored.pop("schema", None)
    names = {field.name for field in dataclasses.fields(PromptCache)} - {"folder"}
    if schema != SCHEMA or set(stored) != names or stored["backend"] not in LOADERS:
        raise IntegrityError(f"{cache / DESCRIPTION} is no prompt cache of this release", REBUILD)
    found = PromptCache(cache, **{**stored, "tokens": tuple(stored["tokens"])})
    here = identify(package, found.backend, precision_of(found.backend, settings))
    for name, ours in here["versions"].items():
        if found.versions.get(name) != ours:
            raise DeviceMissing(
                f"the prompt cache was computed by {name} {found.versions.get(name)}, and here is {ours}",
                f"pip install {name}=={found.versions.get(name)}, or build the bundle again",
            )
    if found.precision != here["precision"]:
        raise UsageError(
            f"the prompt cache is for a KV cache in {found.precision}, and the settings say {here['precision']}",
            "load the package with its own settings",
        )
    for name in ("tokenizer", "package"):
        if getattr(found, name) != here[name]:
            raise IntegrityError(f"the prompt cache belongs to another {name} than {package} has", REBUILD)
    if digest_file(cache / STATE) != found.state:
        raise IntegrityError(f"{cache / STATE} differs from its digest", "fetch the bundle again")
    return found
