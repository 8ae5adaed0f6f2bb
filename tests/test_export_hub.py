import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export.digest import list_files
from export.hub import GRAPH, SIDE_FILES, WEIGHTS, OnnxModel, check_dialect, export_hub
from export.hub_passes import FINITE_MASK, HUB_OPSET
from export.model import import_model
from export.parity import DECODE_STEPS, MAX_ABS_DIFFERENCE, HubSession, check_parity
from export.source import LocalFolder
from targets.errors import StageFailed
from tests.conftest import SIZES, VARIANTS, Hubs, Models
from tests.tiny_folder import load_model, write_folder

EXACT = 1e-5  # what float32 summation order alone accounts for in models this small


def op_types(hub: OnnxModel) -> list[str]:
    return [node.op_type for node in ir.load(hub.graph).graph]


def change(hub: OnnxModel, out: Path, name: str, factor: float) -> Path:
    """A copy of the hub in which an element of one initializer is multiplied."""
    model = ir.load(hub.graph)
    value = model.graph.initializers[name]
    assert value.const_value is not None
    array = value.const_value.numpy().copy()
    array.flat[3] *= factor
    value.const_value = ir.tensor(array, name=name)
    ir.save(model, out / "model.onnx", external_data="model.onnx.data")
    return out / "model.onnx"


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_hub_equals_pytorch(tiny_hubs: Hubs, variant: str) -> None:
    parity = tiny_hubs[variant].parity
    assert len(parity.decode) == DECODE_STEPS
    assert 0 < parity.worst <= EXACT <= MAX_ABS_DIFFERENCE
    assert parity.worst == max(parity.prefill, *parity.decode)
    assert parity.logits_scale > 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_hub_is_in_its_dialect(tiny_hubs: Hubs, variant: str) -> None:
    hub = tiny_hubs[variant]
    onnx.checker.check_model(hub.graph, full_check=True)
    model, found = ir.load(hub.graph), op_types(hub)
    assert model.opset_imports == {"": HUB_OPSET}
    norms_per_layer = 4 if variant == "qwen3" else 2
    assert found.count("RMSNormalization") == norms_per_layer * hub.facts.n_layers + 1
    assert found.count("Softmax") == hub.facts.n_layers
    assert not {"Pow", "ReduceMean", "Identity", "Constant"} & set(found)
    assert hub.nodes == len(found)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_embedding_is_stored_once_unless_untied(tiny_hubs: Hubs, variant: str) -> None:
    hub = tiny_hubs[variant]
    stored = ir.load(hub.graph).graph.initializers
    big = {name for name, value in stored.items() if value.shape and hub.facts.vocab_size in value.shape.numpy()}
    untied = {"lm_head.weight_transposed"} if variant == "untied" else set()
    assert big == {"model.embed_tokens.weight"} | untied
    linear = [name for name in stored if name.endswith("_proj.weight_transposed")]
    assert len(linear) == 7 * hub.facts.n_layers
    assert not [name for name in stored if name.startswith("onnx::MatMul")]
    numbers = sum(int(np.prod(value.shape.numpy())) for value in stored.values() if value.shape)
    assert hub.facts.parameters <= numbers <= hub.facts.parameters + 200


def test_no_number_of_the_hub_overflows_float16(tiny_hub: OnnxModel) -> None:
    stored = [value.const_value for value in ir.load(tiny_hub.graph).graph.initializers.values()]
    floats = [tensor.numpy() for tensor in stored if tensor is not None and tensor.dtype == ir.DataType.FLOAT]
    lowest = min(float(array.min()) for array in floats)
    assert lowest == FINITE_MASK
    assert max(float(array.max()) for array in floats) <= -FINITE_MASK


def test_untrained_norms_are_fused_too(new_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """The exporter shares equal weights through Identity nodes."""
    source = write_folder(tmp_path / "source", **(SIZES | VARIANTS["llama"]))
    hub = export_hub(import_model(LocalFolder(source), tmp_path / "model", tmp_path), new_folder("hub"))
    assert op_types(hub).count("RMSNormalization") == 2 * hub.facts.n_layers + 1


def test_the_hub_folder_holds_what_a_package_needs(tiny_hub: OnnxModel, tiny_models: Models) -> None:
    names = {path.name for path in tiny_hub.folder.iterdir()}
    side = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert side | {GRAPH, WEIGHTS} <= names <= {GRAPH, WEIGHTS, *SIDE_FILES}
    for name in names - {GRAPH, WEIGHTS}:
        assert (tiny_hub.folder / name).read_bytes() == (tiny_models["llama"].folder / name).read_bytes()
    assert tiny_hub.facts == tiny_models["llama"].facts


def test_the_same_model_gives_the_same_hub(tiny_hub: OnnxModel, tiny_models: Models, tmp_path: Path) -> None:
    export_hub(tiny_models["llama"], tmp_path)
    assert list_files(tmp_path) == list_files(tiny_hub.folder)


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("model.layers.1.mlp.down_proj.weight_transposed", 2.0),
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
    model = ir.load(tiny_hub.graph)
    for node in model.graph:
        if node.op_type == "Concat" and node.outputs[0].name == "present.1.value":
            node.replace_input_with(0, next(x for x in model.graph.inputs if x.name == "past_key_values.1.key"))
    ir.save(model, tmp_path / "model.onnx", external_data="model.onnx.data")
    with pytest.raises(StageFailed, match="logits differ"):
        check_parity(load_model(tiny_models["llama"].folder), tmp_path / "model.onnx", tiny_hub.facts)


def test_a_session_can_start_again(tiny_hub: OnnxModel) -> None:
    session, tokens = HubSession(tiny_hub.graph, tiny_hub.facts), np.array([[1, 2, 3]])
    first, second = session.step(tokens), session.step(tokens)
    session.reset()
    assert np.array_equal(session.step(tokens), first)
    assert not np.array_equal(first, second)


def test_a_hub_without_its_norms_is_refused(tiny_hub: OnnxModel) -> None:
    facts = dataclasses.replace(tiny_hub.facts, n_layers=3)
    with pytest.raises(StageFailed, match="the hub has 2 Softmax where llama has 3"):
        check_dialect(ir.load(tiny_hub.graph), facts)


def test_a_hub_that_stores_the_embedding_twice_is_refused(tiny_hubs: Hubs) -> None:
    untied = tiny_hubs["untied"]
    check_dialect(ir.load(untied.graph), untied.facts)
    with pytest.raises(StageFailed, match=r"more than once: model\.embed_tokens\.weight, lm_head\.weight_transposed"):
        check_dialect(ir.load(untied.graph), dataclasses.replace(untied.facts, tied_embeddings=True))


def test_an_invalid_export_is_refused(tiny_models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise onnx.checker.ValidationError(f"{path} is broken")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(StageFailed, match="not valid ONNX"):
        export_hub(tiny_models["llama"], tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
