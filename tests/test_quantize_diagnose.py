import dataclasses
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from export.hub import GRAPH, WEIGHTS
from export.parity import HubSession
from quantize.diagnose import ROWS, broken, diagnose, mean_kl
from quantize.diagnose import WeightError as Error
from quantize.quantizer import QuantizedModel
from quantize.traced_hub import TracedHub
from tests.conftest import Hubs, QuantizedVariants
from tests.tiny_calibration import ignore

TOKENS = np.arange(40, dtype=np.int64)


def break_weight(quantized: QuantizedModel, name: str, out: Path, factor: float) -> QuantizedModel:
    model = ir.load(quantized.graph)
    value = model.graph.initializers[f"{name}.scales"]
    assert value.const_value is not None
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(factor), name=value.name)
    ir.save(model, out / GRAPH, external_data=WEIGHTS)
    return dataclasses.replace(quantized, folder=out)


@pytest.mark.parametrize("variant", ["llama", "untied", "qwen2", "qwen3"])
@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.v_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
    ],
)
def test_a_weight_scaled_by_8_after_quantization_is_named(
    tiny_hubs: Hubs, quantized_variants: QuantizedVariants, tmp_path: Path, variant: str, name: str
) -> None:
    hub, sound = tiny_hubs[variant], quantized_variants[variant, "w4-sym-g32"]
    found = diagnose(hub, break_weight(sound, name, tmp_path, 8.0), TOKENS, 3, ignore)
    assert found.broken == (name,)
    assert found.guilty.name == name == found.weights[0].name
    assert found.weights[0].error > 5
    assert found.guilty.kl_restored is not None
    if variant != "qwen3" or "q_proj" not in name:  # which normalises queries: their size does not matter
        assert found.guilty.kl_restored < 0.5 * found.kl
    whole = diagnose(hub, sound, TOKENS, 1, ignore)
    assert found.guilty.kl_restored == pytest.approx(whole.kl, abs=0.1 * found.kl)


def test_a_sound_model_has_no_broken_weight(tiny_hubs: Hubs, quantized_variants: QuantizedVariants) -> None:
    for scheme in ("w4-sym-cw", "w4-asym-g16", "w8-sym"):
        found = diagnose(tiny_hubs["untied"], quantized_variants["untied", scheme], TOKENS, 0, ignore)
        assert found.broken == ()
        assert {weight.name for weight in found.weights} == set(quantized_variants["untied", scheme].weights)
        assert [weight.error for weight in found.weights] == sorted((w.error for w in found.weights), reverse=True)
        assert all(0 < weight.error < 0.4 for weight in found.weights)


def test_a_broken_table_is_named_too(tiny_hubs: Hubs, quantized_variants: QuantizedVariants, tmp_path: Path) -> None:
    name = "model.embed_tokens.weight"
    found = diagnose(
        tiny_hubs["llama"], break_weight(quantized_variants["llama", "w8-sym"], name, tmp_path, 8.0), TOKENS, 1, ignore
    )
    assert found.broken == (name,)


def test_the_traced_hub_computes_what_the_hub_computes(tiny_hubs: Hubs, quantized_variants: QuantizedVariants) -> None:
    hub, quantized = tiny_hubs["llama"], quantized_variants["llama", "w4-sym-g32"]
    for graph, weights in ((hub.graph, hub.weights), (quantized.graph, None)):
        traced = TracedHub(graph, hub.facts, weights)
        logits, inside = traced.run(TOKENS, ["/model/norm/RMSNormalization_output_0"])
        expected = HubSession(graph, hub.facts, weights).step(TOKENS[None])
        np.testing.assert_allclose(logits[None], expected, atol=1e-5)
        assert inside["/model/norm/RMSNormalization_output_0"].shape == (len(TOKENS), hub.facts.hidden_size)


def test_progress_counts_what_is_done(tiny_hubs: Hubs, quantized_variants: QuantizedVariants) -> None:
    seen: list[tuple[int, int]] = []
    diagnose(
        tiny_hubs["llama"],
        quantized_variants["llama", "w4-sym-g32"],
        TOKENS,
        2,
        lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_broken_is_far_off_and_alone() -> None:
    alike = [Error(f"w{n}", 0.6) for n in range(5)]
    assert broken(alike) == ()
    assert broken([*alike, Error("x", 2.0)]) == ("x",)
    assert broken([Error("a", 0.01), Error("b", 0.01), Error("c", 0.4)]) == ()


def test_kl_is_zero_for_equal_logits_and_right_for_two_tokens() -> None:
    logits = np.array([[0.0, 1.0], [2.0, 2.0]], np.float32)
    assert mean_kl(logits, logits + 3) == pytest.approx(0.0, abs=1e-12)
    p, q = 0.25, 0.5
    one, other = np.log([[p, 1 - p]]).astype(np.float32), np.log([[q, 1 - q]]).astype(np.float32)
    some = (
        np.concatenate([one] * ROWS + [other]),
        np.concatenate([other] * (ROWS + 1)),
    )  # more than are compared at once
    assert mean_kl(*some) == pytest.approx(mean_kl(one, other) * ROWS / (ROWS + 1), rel=1e-5)
    assert mean_kl(one, other) == pytest.approx(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)), rel=1e-5)
