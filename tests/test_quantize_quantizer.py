from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export.digest import list_files
from export.hub import GRAPH, OPTIMUM, SIDE_FILES, WEIGHTS, OnnxModel, export_hub, load_hub, open_hub
from export.model import Model, import_model
from export.parity import HubSession
from export.source import LocalFolder
from quantize.calibrated import CalibratedInputs
from quantize.hub_weights import find_weights, quantized_weights
from quantize.quantizer import quantize_model, refuse_useless_groups
from quantize.recipe import Recipe, parse_recipe
from quantize.scheme import parse_scheme
from quantize.weight import digest_weights
from targets.errors import StageFailed, UsageError
from targets.legality import CHANNEL_WISE
from tests.conftest import SCHEMES, VARIANTS, Hubs, Quantized, QuantizedVariants
from tests.tiny_calibration import ignore, tiny_inputs
from tests.tiny_folder import edit, write_folder

# The largest error of the tiny decoders' logits, relative to their size: 2.4 % and 34 % when this was written.
MAX_ERROR = {"int8": 0.05, "int4": 0.5}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_weight_of_the_hub_is_quantized(tiny_quantized: Quantized, scheme: str) -> None:
    quantized, parsed = tiny_quantized[scheme], parse_scheme(scheme)
    layers = 7 * quantized.facts.n_layers
    assert quantized.counts == ({"int8": layers + 1} if parsed.bits == 8 else {"int8": 1, "int4": layers})
    onnx.checker.check_model(quantized.graph, full_check=True)
    found = {name: weight for name, _, weight in quantized_weights(ir.load(quantized.graph))}
    assert {name: weight.digest() for name, weight in found.items()} == quantized.weights
    assert quantized.weights_digest == digest_weights(quantized.weights)
    for name, weight in found.items():
        how = parsed.embedding if name == "model.embed_tokens.weight" else parsed
        assert weight.bits == how.bits
        assert (weight.zero_points is None) == how.symmetric
        size = weight.codes.shape[1] if how.group_size == CHANNEL_WISE else how.group_size
        assert weight.group_size == size
    assert quantized.weight_bytes == (quantized.folder / WEIGHTS).stat().st_size


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_quantized_hub_runs_near_the_float_one(tiny_hub: OnnxModel, tiny_quantized: Quantized, scheme: str) -> None:
    quantized, tokens = tiny_quantized[scheme], np.arange(40)[None]
    expected = open_hub(tiny_hub).step(tokens)
    found = HubSession(quantized.graph, quantized.facts).step(tokens)
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    assert 1e-4 < error < MAX_ERROR[parse_scheme(scheme).precision]


def test_int8_is_nearer_than_int4_and_small_groups_are_nearer_than_large(
    tiny_hub: OnnxModel, tiny_quantized: Quantized
) -> None:
    tokens = np.arange(40)[None]
    expected = open_hub(tiny_hub).step(tokens)
    errors = [
        float(np.linalg.norm(HubSession(tiny_quantized[name].graph, tiny_hub.facts).step(tokens) - expected))
        for name in ("w8-asym", "w4-asym-g16", "w4-asym-g64")
    ]
    assert errors == sorted(errors)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scheme", ["w8-sym", "w4-asym-g32"])
def test_the_embedding_is_stored_once_unless_untied(
    quantized_variants: QuantizedVariants, variant: str, scheme: str
) -> None:
    quantized = quantized_variants[variant, scheme]
    graph = ir.load(quantized.graph).graph
    rows = quantized.facts.vocab_size
    stored = {name for name, value in graph.initializers.items() if value.shape and value.shape.numpy()[:1] == (rows,)}
    owners = {"model.embed_tokens.weight"} | ({"lm_head.weight"} if variant == "untied" else set())
    assert {name for name in stored if name.endswith(".codes")} == {f"{owner}.codes" for owner in owners}
    assert quantized.counts["int8"] >= len(owners)
    assert len(quantized.weights) == 14 + len(owners)
    assert not find_weights(ir.load(quantized.graph), rows)
    plain = {name for name, value in graph.initializers.items() if value.dtype == ir.DataType.FLOAT}
    for name in plain - {f"{owner}.scales" for owner in quantized.weights}:
        tensor = graph.initializers[name].const_value
        assert tensor is not None
        assert tensor.size <= quantized.facts.n_heads * quantized.facts.head_dim


def test_the_hub_is_not_changed_and_its_side_files_come_along(
    tiny_hub: OnnxModel, tiny_quantized: Quantized, tmp_path: Path
) -> None:
    before = list_files(tiny_hub.folder)
    quantize_model(tiny_hub, "w8-sym", tmp_path, ignore)
    assert list_files(tiny_hub.folder) == before
    assert list_files(tmp_path) == list_files(tiny_quantized["w8-sym"].folder)
    files = list_files(tmp_path)
    assert {name: files[name] for name in files if name not in {GRAPH, WEIGHTS}} == {
        name: before[name] for name in before if name in SIDE_FILES
    }


def test_progress_counts_every_weight(tiny_hub: OnnxModel, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    quantize_model(tiny_hub, "w4-sym-g32", tmp_path, lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (15, 15)
    assert {total for _, total in seen} == {15}


def test_a_group_size_that_divides_no_weight_is_refused(tiny_hub: OnnxModel, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="no weight has input channels that groups of 256 divide: there are 64, 128"):
        quantize_model(tiny_hub, "w4-sym-g256", tmp_path, ignore)
    assert not list(tmp_path.iterdir())


def test_where_groups_do_not_divide_a_weight_is_channel_wise(tmp_path: Path, new_folder: Callable[[str], Path]) -> None:
    """As in SmolLM2, whose 576 features are no multiple of 128: its down projections alone have groups."""
    source = write_folder(new_folder("wide"), hidden_size=48, num_attention_heads=4, intermediate_size=96)
    hub = export_hub(import_model(LocalFolder(source), new_folder("model"), new_folder("downloads")), new_folder("hub"))
    quantized = quantize_model(hub, "w4-sym-g32", tmp_path, ignore)
    for name, _, weight in quantized_weights(ir.load(quantized.graph)):
        grouped = "down_proj" in name
        assert weight.group_size == (32 if grouped else weight.codes.shape[1])
    assert quantized.scheme == "w4-sym-g32"


def test_the_help_names_what_divides_every_weight() -> None:
    with pytest.raises(StageFailed) as caught:
        refuse_useless_groups(parse_recipe("w4-sym-g256"), [64, 192])
    assert caught.value.help == "choose a scheme that ends in g64 or g32 or cw"
    refuse_useless_groups(parse_recipe("w4-sym-g128"), [192, 256])
    refuse_useless_groups(parse_recipe("w4-sym-cw"), [7])


RECIPES = ("w4-sym-g32+clip", "w8-asym+clip", "w4-asym-cw+gptq", "w4-sym-g32+keep30+gptq", "w4-sym-cw+distill")


@pytest.fixture(scope="module")
def calibrated(tiny_model: Model, tmp_path_factory: pytest.TempPathFactory) -> CalibratedInputs:
    return tiny_inputs(tiny_model, tmp_path_factory.mktemp("inputs"))


def short(name: str) -> Recipe:
    recipe = parse_recipe(name)
    return replace(recipe, tuning=replace(recipe.tuning, steps=4)) if recipe.tuning else recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_carried_out_and_says_so(
    tiny_hub: OnnxModel, calibrated: CalibratedInputs, tmp_path: Path, name: str
) -> None:
    seen: list[tuple[int, int]] = []
    recipe = short(name)
    quantized = quantize_model(tiny_hub, recipe, tmp_path, lambda *done: seen.append(done), calibrated)
    assert (quantized.recipe, quantized.scheme) == (name, recipe.scheme)
    assert quantized.calibration == (calibrated.calibration.digest if recipe.calibrated else None)
    assert bool(quantized.conditions) == recipe.calibrated
    assert seen[-1][0] == seen[-1][1]
    assert calibrated.sensitivity is not None
    kept = calibrated.sensitivity.keep(recipe.keep)
    assert set(quantized.kept) == kept
    for weight_name, _, weight in quantized_weights(ir.load(quantized.graph)):
        assert weight.digest() == quantized.weights[weight_name]
        eight = weight_name in kept or "embed" in weight_name
        assert weight.bits == (8 if eight else recipe.format.bits)
    expected = open_hub(tiny_hub).step(np.arange(40)[None])
    found = HubSession(quantized.graph, tiny_hub.facts).step(np.arange(40)[None])
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    assert 1e-4 < error < MAX_ERROR[recipe.format.precision]


@pytest.mark.parametrize("name", ["w4-sym-g32+keep30+gptq", "w4-sym-cw+distill"])
def test_the_same_recipe_gives_the_same_bytes(
    tiny_hub: OnnxModel, calibrated: CalibratedInputs, new_folder: Callable[[str], Path], name: str
) -> None:
    first, second = (quantize_model(tiny_hub, short(name), new_folder("q"), ignore, calibrated) for _ in range(2))
    assert list_files(first.folder) == list_files(second.folder)
    assert replace(first, folder=second.folder) == second


def test_a_calibrated_recipe_says_what_it_needs(
    tiny_hub: OnnxModel, calibrated: CalibratedInputs, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"w4-sym-cw\+gptq needs calibration text"):
        quantize_model(tiny_hub, "w4-sym-cw+gptq", tmp_path, ignore)
    without = replace(calibrated, sensitivity=None)
    with pytest.raises(UsageError, match="their sensitivity was not measured"):
        quantize_model(tiny_hub, "w4-sym-cw+keep10+gptq", tmp_path, ignore, without)


def test_a_hub_of_another_model_is_refused(tiny_hubs: Hubs, calibrated: CalibratedInputs, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="do not have the same weights"):
        quantize_model(tiny_hubs["untied"], "w4-sym-cw+gptq", tmp_path, ignore, fewer_layers(calibrated, tmp_path))


def fewer_layers(inputs: CalibratedInputs, folder: Path) -> CalibratedInputs:
    """The same calibration beside a decoder of one layer."""
    model = folder / "shallow"
    model.mkdir()
    for path in inputs.model.folder.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    edit(model / "config.json", num_hidden_layers=1)
    return replace(inputs, model=replace(inputs.model, folder=model))


def test_an_unknown_scheme_is_refused(tiny_hub: OnnxModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown scheme 'w4-sym-g63x'") as caught:
        quantize_model(tiny_hub, "w4-sym-g63x", tmp_path, ignore)
    assert "did you mean 'w4-sym-g64'" in caught.value.help


@pytest.mark.parametrize(("scheme", "kept"), [("w8-sym", ""), ("w4-sym-cw", "model.embed_tokens.weight")])
def test_a_hub_in_which_nothing_is_quantized_is_refused(
    tiny_hub: OnnxModel, tmp_path: Path, scheme: str, kept: str
) -> None:
    """Even when the embedding was: it is 8-bit in a 4-bit scheme."""
    model = load_hub(tiny_hub)
    for name in [name for name in model.graph.initializers if "_proj" in name or "embed" in name]:
        if name != kept:
            value = model.graph.initializers.pop(name)
            model.graph.inputs.append(value)
            value.const_value = None
    (tmp_path / "hub").mkdir()
    ir.save(model, tmp_path / "hub" / GRAPH, external_data=WEIGHTS)
    (tmp_path / "out").mkdir()
    with pytest.raises(StageFailed, match=f"{scheme} quantized no weight of the hub"):
        quantize_model(replace(tiny_hub, folder=tmp_path / "hub", route=OPTIMUM), scheme, tmp_path / "out", ignore)
    assert not list((tmp_path / "out").iterdir())


def test_weights_are_found_once_with_their_modules(tiny_hubs: Hubs) -> None:
    hub = tiny_hubs["untied"]
    uses = find_weights(load_hub(hub), hub.facts.vocab_size)
    assert [use.name for use in uses if use.embedding] == ["model.embed_tokens.weight", "lm_head.weight"]
    assert len({use.name for use in uses}) == len(uses) == 16
    for use in uses:
        assert use.array().shape[1] == use.in_channels == (128 if "down_proj" in use.name else 64)
        assert use.linear == (use.name != "model.embed_tokens.weight")
