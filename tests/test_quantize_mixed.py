"""Weights of unequal width that read the same tensor, through both back ends."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from compile.backends import find_backend
from export.hub import OnnxModel
from export.model import Model
from export.parity import HubSession
from quantize.calibrated import CalibratedInputs
from quantize.quantizer import QuantizedModel, quantize_model
from tests.tiny_calibration import ignore, tiny_inputs

KEPT = ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight")
SCHEMES = ("w4-sym-g32", "w4-asym-cw")


@pytest.fixture(scope="module")
def inputs(tiny_model: Model, tmp_path_factory: pytest.TempPathFactory) -> CalibratedInputs:
    """As if one weight of three that are packed, and one of two, were the most sensitive."""
    found = tiny_inputs(tiny_model, tmp_path_factory.mktemp("inputs"))
    assert found.sensitivity is not None
    costs = tuple(replace(cost, kl=1.0 if cost.name in KEPT else 1e-3) for cost in found.sensitivity.weights)
    return replace(found, sensitivity=replace(found.sensitivity, weights=costs))


@pytest.fixture(scope="module", params=SCHEMES)
def mixed(
    request: pytest.FixtureRequest, tiny_hub: OnnxModel, inputs: CalibratedInputs, new_folder: Callable[[str], Path]
) -> QuantizedModel:
    quantized = quantize_model(tiny_hub, f"{request.param}+keep17+gptq", new_folder("mixed"), ignore, inputs)
    assert set(quantized.kept) == set(KEPT)
    return quantized


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_both_back_ends_take_it_with_the_same_numbers(mixed: QuantizedModel, tmp_path: Path, backend: str) -> None:
    package = find_backend(backend).compile_package(mixed, {}, tmp_path)
    assert package.weights_digest == mixed.weights_digest


def test_what_cannot_be_packed_is_computed_apart_and_right(mixed: QuantizedModel, tmp_path: Path) -> None:
    find_backend("onnxruntime").compile_package(mixed, {}, tmp_path)
    graph = ir.load(tmp_path / "model.onnx").graph
    widths = {node.name: node.attributes["bits"].as_int() for node in graph if node.op_type == "MatMulNBits"}
    assert widths["model.layers.0.self_attn.q_proj.weight/MatMulNBits"] == 8
    k_and_v = "+".join(f"model.layers.0.self_attn.{name}_proj.weight" for name in "kv")
    assert widths[f"{k_and_v}/MatMulNBits"] == 4
    assert widths["layers.1.attention.qkv/MatMulNBits"] == 4
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    tokens, facts = np.arange(24, dtype=np.int64)[None], mixed.facts
    feeds = {"input_ids": tokens, "attention_mask": np.ones_like(tokens)}
    for value in session.get_inputs():
        if value.name.startswith("past_key_values."):
            feeds[value.name] = np.zeros((1, facts.n_kv_heads, 0, facts.head_dim), np.float32)
    logits = session.run(["logits"], feeds)[0]
    expected = HubSession(mixed.graph, facts).step(tokens)[:, -1:]
    assert logits.shape == expected.shape  # the head reads the last position alone
    # The package multiplies int8 activations, which costs a percent; a weight in the wrong place would cost all.
    assert np.linalg.norm(logits - expected) < 0.05 * np.linalg.norm(expected)
