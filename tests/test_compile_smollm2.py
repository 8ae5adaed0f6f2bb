"""The real SmolLM2 through every stage: what the tiny decoders promise holds for it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from compile.backends import find_backend
from export.catalog import CATALOG, fetch
from export.hub import export_hub
from export.model import import_model
from export.source import CatalogName
from quantize.quantizer import QuantizedModel, quantize_model
from tests.tiny_sessions import open_session, worst_difference

pytestmark = pytest.mark.truth

DOWNLOADS = Path(__file__).resolve().parents[1] / "artifacts" / ".downloads"
LINEARS = 7 * 30
# With queries, keys and values as one, gate and up as another, and the head.
PRODUCTS = LINEARS + 1 - 3 * 30


@pytest.fixture(scope="module")
def quantized(new_folder: Callable[[str], Path]) -> QuantizedModel:
    fetch(CATALOG["smollm2-135m"], DOWNLOADS)
    hub = export_hub(import_model(CatalogName("smollm2-135m"), new_folder("smollm2"), DOWNLOADS), new_folder("hub"))
    assert hub.parity.worst < 1e-3
    return quantize_model(hub, "w4-sym-g64", new_folder("quantized"), lambda done, total: None)


def test_every_weight_is_quantized(quantized: QuantizedModel) -> None:
    assert quantized.counts == {"int8": 1, "int4": LINEARS}


@pytest.mark.parametrize(("backend", "products"), [("onnxruntime", PRODUCTS), ("openvino", PRODUCTS)])
def test_both_runtimes_compute_what_the_quantized_hub_does(
    quantized: QuantizedModel, new_folder: Callable[[str], Path], backend: str, products: int
) -> None:
    package = find_backend(backend).compile_package(quantized, {}, new_folder(backend))
    assert (package.checks["attentions_fused"], package.checks["quantized_matmuls"]) == (30, products)
    assert worst_difference(open_session(package, new_folder("float32")), quantized) < 1e-3
