"""Decoders in which every query has a key of its own (Llama 2): attention is fused there too."""

from pathlib import Path

import pytest

from compile.backends import find_backend
from export.hub import export_hub
from export.model import import_model
from export.source import LocalFolder
from quantize.quantizer import QuantizedModel, quantize_model
from tests.conftest import SIZES
from tests.tiny_folder import spread_vectors, write_folder


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> QuantizedModel:
    work = tmp_path_factory.mktemp("own-keys")
    folders = [work / name for name in ("source", "model", "hub", "quantized")]
    source = write_folder(folders[0], **(SIZES | {"num_key_value_heads": 4}))
    spread_vectors(source)
    for folder in folders[2:]:
        folder.mkdir()
    hub = export_hub(import_model(LocalFolder(source), folders[1], work), folders[2])
    return quantize_model(hub, "w4-sym-g32", folders[3], lambda done, total: None)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_attention_without_shared_keys_is_fused(quantized: QuantizedModel, backend: str, tmp_path: Path) -> None:
    checks = find_backend(backend).compile_package(quantized, {}, tmp_path).checks
    assert checks["attentions_fused"] == quantized.facts.n_layers == 2
