"""Tiny decoders at every stage of the pipeline, each made once per session and only when asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest

from compile.backends import find_backend
from compile.package import Package
from export.hub import OnnxModel, export_hub
from export.model import Model, import_model
from export.source import LocalFolder
from quantize.quantizer import QuantizedModel, quantize_model
from tests.backend_rows import ROWS
from tests.tiny_folder import spread_vectors, write_folder

K = TypeVar("K")
V = TypeVar("V")

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
}

# What the tiny decoders differ in.
VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "untied": {"tie_word_embeddings": False},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "tie_word_embeddings": True, "head_dim": 32},
}

# Those that fit 64 and 128 input channels; `w4-*-g128` does not.
SCHEMES = tuple(
    f"{width}-{symmetry}{group}"
    for symmetry in ("sym", "asym")
    for width, group in (("w8", ""), ("w4", "-g16"), ("w4", "-g32"), ("w4", "-g64"), ("w4", "-cw"))
)


class Made(dict[K, V], Generic[K, V]):
    """A table whose entries are made when first asked for."""

    def __init__(self, make: Callable[[K], V]) -> None:
        super().__init__()
        self.make = make

    def __missing__(self, key: K) -> V:
        self[key] = self.make(key)
        return self[key]


Models = Made[str, Model]
Hubs = Made[str, OnnxModel]
Quantized = Made[str, QuantizedModel]
QuantizedVariants = Made[tuple[str, str], QuantizedModel]
Packages = Made[tuple[str, str, str], Package]


@pytest.fixture(scope="session")
def new_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A new empty folder whose name starts with the given word."""
    return tmp_path_factory.mktemp


@pytest.fixture(scope="session")
def tiny_models(new_folder: Callable[[str], Path]) -> Models:
    """Imported models by variant."""

    def make(variant: str) -> Model:
        source = write_folder(new_folder(variant), **(SIZES | VARIANTS[variant]))
        spread_vectors(source)
        return import_model(LocalFolder(source), new_folder("model"), new_folder("downloads"))

    return Made(make)


@pytest.fixture(scope="session")
def tiny_hubs(tiny_models: Models, new_folder: Callable[[str], Path]) -> Hubs:
    """Hubs by variant."""
    return Made(lambda variant: export_hub(tiny_models[variant], new_folder("hub")))


@pytest.fixture(scope="session")
def quantized_variants(tiny_hubs: Hubs, new_folder: Callable[[str], Path]) -> QuantizedVariants:
    """Quantized models by (variant, scheme)."""
    return Made(
        lambda key: quantize_model(tiny_hubs[key[0]], key[1], new_folder("quantized"), lambda done, total: None)
    )


@pytest.fixture(scope="session")
def tiny_packages(quantized_variants: QuantizedVariants, new_folder: Callable[[str], Path]) -> Packages:
    """Packages by (variant, scheme, back end)."""

    def make(key: tuple[str, str, str]) -> Package:
        variant, scheme, backend = key
        options = ROWS[backend].options
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TAPEOUT_NPU_COMPILER", "off")  # it takes half a minute, and no two blobs are alike
            return find_backend(backend).compile_package(
                quantized_variants[variant, scheme], options, new_folder(backend)
            )

    return Made(make)


@pytest.fixture(scope="session")
def tiny_model(tiny_models: Models) -> Model:
    """The tied Llama."""
    return tiny_models["llama"]


@pytest.fixture(scope="session")
def tiny_hub(tiny_hubs: Hubs) -> OnnxModel:
    """The hub of the tied Llama."""
    return tiny_hubs["llama"]


@pytest.fixture(scope="session")
def tiny_quantized(quantized_variants: QuantizedVariants) -> Quantized:
    """The quantized tied Llama by scheme."""
    return Made(lambda scheme: quantized_variants["llama", scheme])
