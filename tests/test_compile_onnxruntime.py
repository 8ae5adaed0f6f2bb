import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from compile.attention import find_attentions
from compile.onnxruntime_backend import OnnxRuntimeBackend, check_operators, genai_config, package_weights
from compile.rotary import rotary_tables
from export.hub import OnnxModel, load_hub
from export.parity import HubSession
from quantize.quantizer import QuantizedModel
from targets.errors import NotForModel, StageFailed
from tests.conftest import SCHEMES, VARIANTS, Hubs, Packages, Quantized, QuantizedVariants
from tests.tiny_sessions import GenAiSession, worst_difference

EXACT = 1e-4
CASES = [("llama", scheme) for scheme in SCHEMES] + [
    (variant, scheme) for variant in VARIANTS if variant != "llama" for scheme in ("w8-sym", "w4-asym-g32")
]


def operators(folder: Path) -> list[str]:
    return [node.op_type for node in ir.load(folder / "model.onnx").graph]


@pytest.mark.parametrize(("variant", "scheme"), CASES)
def test_the_package_computes_what_the_quantized_hub_does(
    tiny_packages: Packages, quantized_variants: QuantizedVariants, tmp_path: Path, variant: str, scheme: str
) -> None:
    session = GenAiSession(tiny_packages[variant, scheme, "onnxruntime"].folder, tmp_path)
    assert worst_difference(session, quantized_variants[variant, scheme]) < EXACT


@pytest.mark.parametrize("variant", VARIANTS)
def test_everything_is_lowered(tiny_packages: Packages, variant: str) -> None:
    package = tiny_packages[variant, "w4-asym-g32", "onnxruntime"]
    found = operators(package.folder)
    assert found.count("GroupQueryAttention") == 2
    assert found.count("GatherBlockQuantized") == 1
    assert found.count("SkipSimplifiedLayerNormalization") == 4
    assert found.count("SimplifiedLayerNormalization") == (5 if variant == "qwen3" else 1)
    # Queries, keys and values are one product, gate and up another; biases and norms come after the Split.
    assert found.count("MatMulNBits") == 9
    assert found.count("Split") == (4 if variant in {"qwen2", "qwen3"} else 2)
    assert not {"Softmax", "DequantizeLinear", "RMSNormalization", "Cos", "Sin"} & set(found)
    assert package.checks["operators"] == len(found)
    assert package.checks["quantized_matmuls"] == found.count("MatMulNBits")


def test_a_tied_table_is_stored_once(tiny_packages: Packages, tiny_hub: OnnxModel) -> None:
    graph = ir.load(tiny_packages["llama", "w8-sym", "onnxruntime"].folder / "model.onnx").graph
    rows = tiny_hub.facts.vocab_size
    tables = [name for name, value in graph.initializers.items() if value.shape and value.shape.numpy()[0:1] == (rows,)]
    assert sorted(tables) == ["model.embed_tokens.weight.blocks.codes", "model.embed_tokens.weight.blocks.scales"]


def test_the_tables_are_the_rotary_embedding(tiny_hub: OnnxModel) -> None:
    hub = load_hub(tiny_hub)
    cos, sin = rotary_tables(hub, find_attentions(hub)[0], 100)
    angles = np.arange(100)[:, None] * 10000.0 ** (-np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(cos, np.cos(angles), atol=1e-5)
    np.testing.assert_allclose(sin, np.sin(angles), atol=1e-5)


def test_attentions_are_found_in_order(tiny_hubs: Hubs) -> None:
    for variant in VARIANTS:
        found = find_attentions(load_hub(tiny_hubs[variant]))
        assert [attention.layer for attention in found] == [0, 1]
        scale = tiny_hubs[variant].facts.head_dim ** -0.5
        assert [attention.scale for attention in found] == pytest.approx([scale, scale])


def compile_changed(quantized: QuantizedModel, folder: Path, change: Callable[[ir.Model], None]) -> None:
    model = ir.load(quantized.graph)
    change(model)
    (folder / "in").mkdir()
    (folder / "out").mkdir()
    ir.save(model, folder / "in" / "model.onnx", external_data="model.onnx.data")
    changed = QuantizedModel(**{**vars(quantized), "folder": folder / "in"})
    OnnxRuntimeBackend().compile_package(changed, {}, folder / "out")


def first(model: ir.Model, op_type: str) -> ir.Node:
    return next(node for node in model.graph if node.op_type == op_type)


def scale_by_a_variable(model: ir.Model) -> None:
    masked = first(model, "Softmax").inputs[0]
    add = masked.producer() if masked else None
    scaled = add.inputs[0].producer() if add and add.inputs[0] else None
    assert scaled is not None
    scaled.replace_input_with(1, scaled.inputs[0])


def soften_the_mask(model: ir.Model) -> None:
    softmax = first(model, "Softmax")
    masked = softmax.inputs[0]
    add = masked.producer() if masked else None
    assert add is not None
    softmax.replace_input_with(0, add.inputs[0])


def rename_a_cache(model: ir.Model) -> None:
    output = next(value for value in model.graph.outputs if value.name == "present.1.key")
    output.name = "cache"


def turn_keys_by_other_angles(model: ir.Model) -> None:
    attention = find_attentions(model)[0]
    readers = [node for node in attention.cos.uses() if node.node.op_type == "Mul"]
    readers[1].node.replace_input_with(1, attention.sin)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (scale_by_a_variable, "no a constant scale"),
        (soften_the_mask, "no Add where one belongs"),
        (rename_a_cache, r"called present\.<layer>\.key"),
        (turn_keys_by_other_angles, "the same angles"),
    ],
)
def test_an_attention_outside_the_dialect_is_refused(
    tiny_quantized: Quantized, tmp_path: Path, change: Callable[[ir.Model], None], said: str
) -> None:
    with pytest.raises(StageFailed, match=said) as caught:
        compile_changed(tiny_quantized["w8-sym"], tmp_path, change)
    assert "build for OpenVINO only" in caught.value.help


def test_a_hub_without_attention_is_refused() -> None:
    text = '<ir_version: 8, opset_import: ["" : 23]> none (float[2] x) => (float[2] y) { y = Neg (x) }'
    with pytest.raises(StageFailed, match="no attention"):
        find_attentions(ir.from_proto(onnx.parser.parse_model(text)))


def test_heads_that_the_runtime_does_not_take_are_refused_before_any_work(
    tiny_quantized: Quantized, tmp_path: Path
) -> None:
    """GroupQueryAttention says so only when it runs: on the device."""
    quantized = tiny_quantized["w8-sym"]
    odd = replace(quantized, facts=replace(quantized.facts, head_dim=24))
    with pytest.raises(NotForModel, match="multiple of 16; this model has 24"):
        OnnxRuntimeBackend().compile_package(odd, {}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_graph_that_was_not_lowered_is_refused(tiny_quantized: Quantized, tiny_packages: Packages) -> None:
    quantized = tiny_quantized["w8-sym"]
    with pytest.raises(StageFailed, match="2 Softmax were not lowered for ONNX Runtime"):
        check_operators(ir.load(quantized.graph), quantized)
    shipped = ir.load(tiny_packages["llama", "w8-sym", "onnxruntime"].folder / "model.onnx")
    attention = first(shipped, "GroupQueryAttention")
    attention.op_type = "Attention"
    with pytest.raises(StageFailed, match="1 GroupQueryAttention for 2 layers"):
        check_operators(shipped, quantized)


def test_a_package_tells_which_weight_changed(tiny_quantized: Quantized, tiny_packages: Packages) -> None:
    shipped = ir.load(tiny_packages["llama", "w8-sym", "onnxruntime"].folder / "model.onnx")
    names = [f"model.layers.0.self_attn.{letter}_proj.weight" for letter in "qkv"]
    packed = {"layers.0.attention.qkv/MatMulNBits": list(zip(names, (64, 32, 32), strict=True))}
    quantized = tiny_quantized["w8-sym"].weights
    assert package_weights(shipped, packed) == {name: quantized[name] for name in names}
    codes = shipped.graph.initializers["layers.0.attention.qkv.blocks.codes"]
    assert codes.const_value is not None
    array = codes.const_value.numpy().copy()
    array[70, 0, 5] ^= 1
    codes.const_value = ir.tensor(array)
    found = package_weights(shipped, packed)
    assert [name for name in names if found[name] != quantized[name]] == names[1:2]


def test_genai_is_told_the_sizes(tiny_packages: Packages) -> None:
    package = tiny_packages["qwen2", "w4-asym-g32", "onnxruntime"]
    config = json.loads((package.folder / "genai_config.json").read_text())
    assert config == genai_config(package.folder, package.facts)
    decoder = config["model"]["decoder"]
    assert (config["model"]["type"], config["model"]["context_length"], config["model"]["vocab_size"]) == (
        "qwen2",
        128,
        511,
    )
    assert (decoder["head_size"], decoder["num_attention_heads"], decoder["num_key_value_heads"]) == (16, 4, 2)
    assert set(config["model"]) >= {"eos_token_id"}


def test_onnxruntime_genai_generates(tiny_packages: Packages, tiny_quantized: Quantized, tmp_path: Path) -> None:
    import onnxruntime_genai

    quantized = tiny_quantized["w8-sym"]
    session = GenAiSession(tiny_packages["llama", "w8-sym", "onnxruntime"].folder, tmp_path)
    tokenizer = onnxruntime_genai.Tokenizer(session.model)
    prompt = tokenizer.encode("The model is small")
    hub, tokens, expected = HubSession(quantized.graph, quantized.facts), np.array([prompt], np.int64), []
    for _ in range(6):
        tokens = hub.step(tokens)[:, -1:].argmax(-1)
        expected.append(int(tokens[0, 0]))
    session.generator.append_tokens(np.array(prompt, np.int32))
    for _ in range(6):
        session.generator.generate_next_token()
    assert session.generator.get_sequence(0)[len(prompt) :].tolist() == expected
    assert tokenizer.decode(np.array(prompt, np.int32)) == "The model is small"
