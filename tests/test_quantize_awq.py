"""AWQ: float stays float, the graph stays the graph, and the scales are as good as NNCF's own."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest
import torch

from compile.backends import find_backend
from export.hub import OnnxModel, load_hub, open_hub
from export.parity import HubSession
from quantize.awq import JUNCTIONS, Fold, Inputs, best_scale, fold_decoder, output_error
from quantize.decoder import hidden_states, linear_modules, load_decoder
from quantize.diagnose import diagnose, mean_kl
from quantize.folds import FOLDS, folded, read_factors, replace_vectors
from quantize.hub_weights import find_weights
from quantize.quantizer import QuantizedModel, quantize_model
from quantize.recipe import AwqPlan
from quantize.scheme import parse_scheme
from quantize.traced_hub import TracedHub
from targets.errors import StageFailed
from tests.backend_rows import ROWS
from tests.conftest import VARIANTS, Hubs, Models, QuantizedVariants
from tests.test_quantize_diagnose import TOKENS, break_weight
from tests.tiny_calibration import ignore, tiny_inputs

PLAN = AwqPlan(sequences=8)
RECIPE = "w4-sym-g32+awq"


@pytest.fixture(scope="module")
def made(tiny_models: Models, tiny_hubs: Hubs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, QuantizedModel]:
    """The recipe on a decoder with biases and tied value heads, and on one with norms of queries and keys."""
    found = {}
    for variant in ("qwen2", "qwen3"):
        inputs = tiny_inputs(tiny_models[variant], tmp_path_factory.mktemp("awq"))
        out = tmp_path_factory.mktemp("quantized")
        found[variant] = quantize_model(tiny_hubs[variant], RECIPE, out, ignore, inputs)
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_folding_changes_no_output_and_every_junction(tiny_models: Models, variant: str) -> None:
    decoder, plain = (load_decoder(tiny_models[variant].folder) for _ in range(2))
    tokens = torch.randint(5, 200, (8, 32), generator=torch.Generator().manual_seed(1))
    schemes = {name: parse_scheme("w4-sym-cw") for name in linear_modules(decoder)}
    fold = fold_decoder(decoder, tokens, schemes, PLAN, ignore)
    torch.testing.assert_close(hidden_states(decoder, tokens), hidden_states(plain, tokens), rtol=1e-3, atol=1e-3)
    assert set(fold.read) == set(schemes)
    assert len(fold.made) == 2 * len(decoder.model.layers)
    assert any(float((scale - 1).abs().max()) > 0.1 for scale in fold.read.values())
    before, after = linear_modules(plain), linear_modules(decoder)
    factors = {f"{name}.read": scale.numpy() for name, scale in fold.read.items()}
    factors |= {f"{name}.made": scale.numpy() for name, scale in fold.made.items()}
    for name, module in after.items():
        expected = folded(before[name].weight.data.numpy(), name, factors)
        np.testing.assert_allclose(module.weight.data.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_every_linear_layer_reads_one_junction(tiny_models: Models) -> None:
    layer = load_decoder(tiny_models["llama"].folder).model.layers[0]
    read = [f"{name}.weight" for _, readers in JUNCTIONS for name in readers]
    assert sorted(read) == sorted(linear_modules(layer))


def uneven(rows: int, columns: int) -> torch.Tensor:
    """Inputs of which a few channels are large, as a decoder's are; positive, so that their means say so too."""
    random = torch.Generator().manual_seed(3)
    channels = torch.rand(columns, generator=random) ** 6 * 30 + 0.05
    return torch.rand(rows, columns, generator=random) * channels


@pytest.mark.parametrize("scheme", ["w4-sym-cw", "w4-asym-cw"])
def test_scales_are_as_good_as_those_of_nncf(scheme: str) -> None:
    """On six weights together: which of two near scales is luckier with one weight says nothing."""
    form, inputs = parse_scheme(scheme), uneven(32, 64)
    moment = inputs.T @ inputs / len(inputs)
    plain, found, reference = 0.0, 0.0, 0.0
    for seed in range(6):
        weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(seed))
        ours = best_scale([(weight, form)], Inputs(inputs.abs().mean(0), moment), (1, 1, 64), AwqPlan())
        plain += output_error(weight, form, torch.ones(64), moment)
        found += output_error(weight, form, ours, moment)
        reference += output_error(weight, form, nncf_scale(weight, inputs, form.symmetric), moment)
    assert reference < 0.6 * plain
    assert found < 1.15 * reference


def nncf_scale(weight: torch.Tensor, inputs: torch.Tensor, symmetric: bool) -> torch.Tensor:
    """[in]: what NNCF's AWQ multiplies the input channels of a channel-wise weight by."""
    from nncf import CompressWeightsMode
    from nncf.common.tensor_statistics.statistics import WCTensorStatistic
    from nncf.quantization.algorithms.weight_compression.awq import AWQ
    from nncf.quantization.algorithms.weight_compression.config import WeightCompressionConfig
    from nncf.tensor import Tensor

    mode = CompressWeightsMode.INT4_SYM if symmetric else CompressWeightsMode.INT4_ASYM
    asked = SimpleNamespace(compression_config=WeightCompressionConfig(mode=mode, group_size=-1), reduction_axes=(1,))
    statistic = WCTensorStatistic([Tensor(row.numpy()) for row in inputs], [(1, 1, inputs.shape[1])] * len(inputs))
    found = AWQ()._data_aware_step(asked, Tensor(weight.numpy()), statistic, -1)
    return torch.from_numpy(np.array(found.data, np.float32))


def test_heads_that_share_values_share_their_scales() -> None:
    inputs = uneven(64, 24)
    seen = Inputs(inputs.abs().mean(0), inputs.T @ inputs / 64)
    weight = torch.randn(16, 24, generator=torch.Generator().manual_seed(5))
    scale = best_scale([(weight, parse_scheme("w4-sym-cw"))], seen, (2, 3, 4), AwqPlan()).reshape(2, 3, 4)
    assert float((scale - 1).abs().max()) > 0.1
    assert torch.equal(scale, scale[:, :1].expand(2, 3, 4))


@pytest.mark.parametrize("variant", ["qwen2", "qwen3"])
def test_the_graph_is_the_hub_with_other_numbers(
    made: dict[str, QuantizedModel],
    tiny_models: Models,
    tiny_hubs: Hubs,
    quantized_variants: QuantizedVariants,
    tmp_path: Path,
    variant: str,
) -> None:
    quantized, plain, hub = made[variant], quantized_variants[variant, "w4-sym-g32"], tiny_hubs[variant]
    operators, expected = (Counter(node.op_type for node in ir.load(one.graph).graph) for one in (quantized, plain))
    assert operators == expected
    assert (quantized.folder / FOLDS).exists()
    assert "model.layers.1.input_layernorm.weight" in quantized.vectors
    assert ("model.layers.0.self_attn.v_proj.bias" in quantized.vectors) == (variant == "qwen2")
    assert quantized.weights_digest not in {plain.weights_digest, ""}
    floats = {use.name: use.array() for use in find_weights(load_hub(hub), hub.facts.vocab_size)}
    factors = read_factors(quantized.folder)
    restored = {
        name: folded(floats[name], name, factors) for name in linear_modules(load_decoder(tiny_models[variant].folder))
    }
    logits = open_hub(hub).step(TOKENS[None])[0]
    exact, _ = TracedHub(quantized.graph, hub.facts).run(TOKENS, restored=restored)
    assert mean_kl(logits, exact) < 1e-3  # the embedding table is still in 8 bits
    stale = mean_kl(logits, TracedHub(without_vectors(quantized, hub, tmp_path), hub.facts).run(TOKENS)[0])
    assert mean_kl(logits, HubSession(quantized.graph, hub.facts).step(TOKENS[None])[0]) < 0.8 * stale


def without_vectors(quantized: QuantizedModel, hub: OnnxModel, out: Path) -> Path:
    """The quantized hub with the float hub's norms and biases: what a back end would ship that lost the new ones."""
    model, before = ir.load(quantized.graph), load_hub(hub)
    for name in quantized.vectors:
        model.graph.initializers[name].const_value = before.graph.initializers[name].const_value
    ir.save(model, out / "model.onnx", external_data="model.data")
    return out / "model.onnx"


def test_a_hub_without_the_vector_is_refused(tiny_hubs: Hubs) -> None:
    hub = load_hub(tiny_hubs["llama"])
    with pytest.raises(StageFailed, match=r"no vector model\.layers\.9\.input_layernorm\.weight of 64"):
        replace_vectors(hub, Fold(vectors={"model.layers.9.input_layernorm.weight": torch.ones(64)}))


def test_a_folded_weight_is_compared_with_what_it_was_folded_to(
    made: dict[str, QuantizedModel], tiny_hubs: Hubs, tmp_path: Path
) -> None:
    sound = diagnose(tiny_hubs["qwen2"], made["qwen2"], TOKENS, 0, ignore)
    assert sound.broken == ()
    assert all(weight.error < 0.4 for weight in sound.weights)
    name = "model.layers.1.mlp.up_proj.weight"
    broken = break_weight(made["qwen2"], name, tmp_path, 8.0)
    (tmp_path / FOLDS).write_bytes((made["qwen2"].folder / FOLDS).read_bytes())
    assert f"{name}.made" in read_factors(broken.folder)
    assert diagnose(tiny_hubs["qwen2"], broken, TOKENS, 1, ignore).broken == (name,)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_packages_hold_the_changed_norms(made: dict[str, QuantizedModel], tmp_path: Path, backend: str) -> None:
    package = find_backend(backend).compile_package(made["qwen2"], ROWS[backend].options, tmp_path)
    assert package.weights_digest == made["qwen2"].weights_digest
    norm = "model.layers.1.post_attention_layernorm.weight"
    value = ir.load(made["qwen2"].graph).graph.initializers[norm].const_value
    assert value is not None
    wanted = value.numpy()
    if backend == "onnxruntime":
        vectors = [tensor.const_value for tensor in ir.load(tmp_path / "model.onnx").graph.initializers.values()]
        held = [one.numpy() for one in vectors if one is not None]
    else:
        import openvino as ov

        constants = ov.Core().read_model(tmp_path / "openvino_model.xml").get_ordered_ops()
        held = [node.data for node in constants if node.get_type_name() == "Constant"]
    assert any(one.size == wanted.size and np.array_equal(one.reshape(-1), wanted) for one in held)
