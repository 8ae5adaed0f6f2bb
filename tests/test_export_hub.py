import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import load_file, save_file

from export.digest import list_files
from export.hub import (
    GRAPH,
    NATIVE,
    OPTIMUM,
    SIDE_FILES,
    WEIGHTS,
    OnnxModel,
    check_dialect,
    check_valid,
    export_hub,
    load_hub,
    open_hub,
)
from export.hub_passes import FINITE_MASK, HUB_OPSET
from export.model import import_model
from export.native_hub import native_hub
from export.parity import DECODE_STEPS, MAX_ABS_DIFFERENCE, TorchSession, check_parity, compare
from export.reference import ReferenceDecoder
from export.source import LocalFolder
from export.tensor_map import tensor_places
from targets.errors import StageFailed
from tests.conftest import SIZES, VARIANTS, Hubs, Models
from tests.tiny_folder import load_model, spread_vectors, write_folder

EXACT = 1e-5  # what float32 summation order alone accounts for in models this small


def op_types(hub: OnnxModel) -> list[str]:
    return [node.op_type for node in load_hub(hub).graph]


def change(hub: OnnxModel, out: Path, name: str, factor: float) -> Path:
    """A copy of the hub in which an element of one initializer is multiplied."""
    model = load_hub(hub)
    value = model.graph.initializers[name]
    assert value.const_value is not None
    array = value.const_value.numpy().copy()
    array.flat[3] *= factor
    value.const_value = ir.tensor(array, name=name)
    ir.save(model, out / "model.onnx", external_data="model.onnx.data")
    return out / "model.onnx"


def load_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder."""
    loaded: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return loaded


# What a configuration may ask for beyond the variants. A head apart from the embedding and one layer more show whether
# each weight is where it belongs.
FAMILIES: dict[str, dict[str, Any]] = VARIANTS | {
    "mistral": {"model_type": "mistral", "head_dim": 32, "sliding_window": None},
    "every query its own key": {"num_key_value_heads": 4, "num_hidden_layers": 3},
    "one key for all": {"num_key_value_heads": 1, "attention_bias": True},
    "qwen3 with biases": {"model_type": "qwen3", "attention_bias": True, "head_dim": 16},
    "linear scaling": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}, "rope_theta": 500.0},
    "llama 3 scaling": {
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_hub_equals_pytorch(family: str, tmp_path: Path) -> None:
    """The native graph and the plain decoder it is checked by, both against transformers on all layers."""
    source = write_folder(tmp_path / "source", **(SIZES | FAMILIES[family]))
    spread_vectors(source)
    model = import_model(LocalFolder(source), tmp_path / "model", tmp_path)
    (tmp_path / "hub").mkdir()
    hub = export_hub(model, tmp_path / "hub")
    assert hub.route == NATIVE
    loaded = load_model(model.folder)
    parity = check_parity(loaded, hub.graph, hub.facts, hub.weights)
    assert len(parity.decode) == DECODE_STEPS
    assert 0 < parity.worst <= EXACT <= MAX_ABS_DIFFERENCE
    assert parity.worst == max(parity.prefill, *parity.decode)
    assert parity.logits_scale > 1
    places = tensor_places(model.folder)
    reference = ReferenceDecoder(load_config(model.folder), places, range(model.n_layers))
    assert 0 < compare(reference, TorchSession(loaded), model.vocab_size, "PyTorch").worst <= EXACT
    assert (hub.parity.reference, hub.parity.layers) == ("NumPy", (0, model.n_layers - 1))
    assert 0 < hub.parity.worst <= EXACT


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_in_16_bits_stay_where_they_are(dtype: str, tmp_path: Path) -> None:
    """A graph that points to 16-bit weights computes what transformers computes of them in float32."""
    source = write_folder(tmp_path / "source", shard_bytes=100_000, **(SIZES | VARIANTS["untied"]))
    shards = sorted(source.glob("*.safetensors"))
    assert len(shards) > 1
    for shard in shards:
        narrowed = {name: tensor.to(getattr(torch, dtype)) for name, tensor in load_file(shard).items()}
        save_file(narrowed, shard, metadata={"format": "pt"})
    model = import_model(LocalFolder(source), tmp_path / "model", tmp_path)
    (tmp_path / "hub").mkdir()
    hub = export_hub(model, tmp_path / "hub")
    assert check_parity(load_model(model.folder), hub.graph, hub.facts, hub.weights).worst <= EXACT
    assert hub.graph.stat().st_size < 100_000
    assert WEIGHTS not in {path.name for path in hub.folder.iterdir()}


def test_what_is_not_written_natively_goes_through_optimum(tmp_path: Path) -> None:
    yarn = {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}}
    # Its norms are as they start, all alike: the exporter shares equal weights through Identity nodes.
    source = write_folder(tmp_path / "source", **(SIZES | VARIANTS["llama"] | yarn))
    model = import_model(LocalFolder(source), tmp_path / "model", tmp_path)
    (tmp_path / "hub").mkdir()
    hub = export_hub(model, tmp_path / "hub")
    assert (hub.route, hub.weights) == (OPTIMUM, hub.folder)
    assert (hub.parity.reference, hub.parity.layers) == ("PyTorch", ())
    assert 0 < hub.parity.worst <= EXACT
    assert {path.name for path in hub.folder.iterdir()} >= {GRAPH, WEIGHTS}
    onnx.checker.check_model(hub.graph, full_check=True)
    native = native_hub({**load_config(model.folder), "rope_scaling": None}, tensor_places(model.folder))
    assert {node.op_type for node in native.graph} < set(op_types(hub))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_hub_is_in_its_dialect(tiny_hubs: Hubs, variant: str) -> None:
    hub = tiny_hubs[variant]
    model, found = load_hub(hub), op_types(hub)
    check_valid(model)
    assert model.opset_imports == {"": HUB_OPSET}
    norms_per_layer = 4 if variant == "qwen3" else 2
    assert found.count("RMSNormalization") == norms_per_layer * hub.facts.n_layers + 1
    assert found.count("Softmax") == hub.facts.n_layers
    assert not {"Pow", "ReduceMean", "Identity", "Constant"} & set(found)
    assert hub.nodes == len(found)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_embedding_is_stored_once_unless_untied(tiny_hubs: Hubs, variant: str) -> None:
    hub = tiny_hubs[variant]
    stored = load_hub(hub).graph.initializers
    big = {name for name, value in stored.items() if value.shape and hub.facts.vocab_size in value.shape.numpy()}
    untied = {"lm_head.weight"} if variant == "untied" else set()
    assert big == {"model.embed_tokens.weight"} | untied
    linear = [name for name in stored if name.endswith("_proj.weight")]
    assert len(linear) == 7 * hub.facts.n_layers
    assert not [name for name in stored if name.startswith("onnx::MatMul")]
    numbers = sum(int(np.prod(value.shape.numpy())) for value in stored.values() if value.shape)
    assert hub.facts.parameters <= numbers <= hub.facts.parameters + 200


def test_no_number_of_the_hub_overflows_float16(tiny_hub: OnnxModel) -> None:
    stored = [value.const_value for value in load_hub(tiny_hub).graph.initializers.values()]
    floats = [tensor.numpy() for tensor in stored if tensor is not None and tensor.dtype == ir.DataType.FLOAT]
    lowest = min(float(array.min()) for array in floats)
    assert lowest == FINITE_MASK
    assert max(float(array.max()) for array in floats) <= -FINITE_MASK


def test_the_hub_folder_holds_what_a_package_needs(tiny_hub: OnnxModel, tiny_models: Models) -> None:
    names = {path.name for path in tiny_hub.folder.iterdir()}
    side = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert side | {GRAPH} <= names <= {GRAPH, *SIDE_FILES}
    for name in names - {GRAPH}:
        assert (tiny_hub.folder / name).read_bytes() == (tiny_models["llama"].folder / name).read_bytes()
    assert tiny_hub.facts == tiny_models["llama"].facts


def test_the_same_model_gives_the_same_hub(tiny_hub: OnnxModel, tiny_models: Models, tmp_path: Path) -> None:
    export_hub(tiny_models["llama"], tmp_path)
    assert list_files(tmp_path) == list_files(tiny_hub.folder)


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("model.layers.1.mlp.down_proj.weight", 2.0),
        ("model.norm.weight", 1.1),
        ("model.embed_tokens.weight", float("nan")),
    ],
)
def test_a_hub_that_differs_from_pytorch_is_refused(
    tiny_hub: OnnxModel, tiny_models: Models, tmp_path: Path, name: str, factor: float
) -> None:
    graph = change(tiny_hub, tmp_path, name, factor)
    with pytest.raises(StageFailed, match="logits differ from PyTorch's by"):
        check_parity(load_model(tiny_models["llama"].folder), graph, tiny_hub.facts)


def test_a_hub_that_loses_its_cache_is_refused(tiny_hub: OnnxModel, tiny_models: Models, tmp_path: Path) -> None:
    """Prefill alone would not notice: with an empty past, `present` is never read."""
    model = load_hub(tiny_hub)
    for node in model.graph:
        if node.op_type == "Concat" and node.outputs[0].name == "present.1.value":
            node.replace_input_with(0, next(x for x in model.graph.inputs if x.name == "past_key_values.1.key"))
    ir.save(model, tmp_path / "model.onnx", external_data="model.onnx.data")
    with pytest.raises(StageFailed, match="logits differ"):
        check_parity(load_model(tiny_models["llama"].folder), tmp_path / "model.onnx", tiny_hub.facts)


def test_a_session_can_start_again(tiny_hub: OnnxModel) -> None:
    session, tokens = open_hub(tiny_hub), np.array([[1, 2, 3]])
    first, second = session.step(tokens), session.step(tokens)
    session.reset()
    assert np.array_equal(session.step(tokens), first)
    assert not np.array_equal(first, second)


def test_a_hub_without_its_norms_is_refused(tiny_hub: OnnxModel) -> None:
    facts = dataclasses.replace(tiny_hub.facts, n_layers=3)
    with pytest.raises(StageFailed, match="the hub has 2 Softmax where llama has 3"):
        check_dialect(load_hub(tiny_hub), facts)


def test_a_hub_that_stores_the_embedding_twice_is_refused(tiny_hubs: Hubs) -> None:
    untied = tiny_hubs["untied"]
    check_dialect(load_hub(untied), untied.facts)
    with pytest.raises(StageFailed, match=r"more than once: model\.embed_tokens\.weight, lm_head\.weight"):
        check_dialect(load_hub(untied), dataclasses.replace(untied.facts, tied_embeddings=True))


def test_an_invalid_export_is_refused(tiny_models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: object, full_check: bool) -> None:
        raise onnx.checker.ValidationError("it is broken")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(StageFailed, match="not valid ONNX"):
        export_hub(tiny_models["llama"], tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
