import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export.digest import list_files
from export.hub import GRAPH, SIDE_FILES, WEIGHTS, OnnxModel
from export.parity import HubSession
from quantize.hub_weights import find_weights, quantized_weights
from quantize.quantizer import quantize_model, refuse_ragged_groups
from quantize.scheme import parse_scheme
from quantize.weight import digest_weights
from targets.errors import StageFailed, UsageError
from targets.legality import CHANNEL_WISE
from tests.conftest import SCHEMES, VARIANTS, Hubs, Quantized, QuantizedVariants

# The largest error of the tiny decoders' logits, relative to their size: 2.4 % and 34 % when this was written.
MAX_ERROR = {"int8": 0.05, "int4": 0.5}


def ignore(done: int, total: int) -> None:
    """A progress that nobody watches."""


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
    expected = HubSession(tiny_hub.graph, tiny_hub.facts).step(tokens)
    found = HubSession(quantized.graph, quantized.facts).step(tokens)
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    assert 1e-4 < error < MAX_ERROR[parse_scheme(scheme).precision]


def test_int8_is_nearer_than_int4_and_small_groups_are_nearer_than_large(
    tiny_hub: OnnxModel, tiny_quantized: Quantized
) -> None:
    tokens = np.arange(40)[None]
    expected = HubSession(tiny_hub.graph, tiny_hub.facts).step(tokens)
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


def test_a_group_size_that_does_not_divide_is_refused(tiny_hub: OnnxModel, tmp_path: Path) -> None:
    with pytest.raises(
        StageFailed, match=r"q_proj\.weight has 64 input channels, which groups of 128 do not"
    ) as caught:
        quantize_model(tiny_hub, "w4-sym-g128", tmp_path, ignore)
    assert caught.value.help == "choose a scheme that ends in g64 or g32 or cw"
    assert not list(tmp_path.iterdir())


def test_channel_wise_fits_any_weight() -> None:
    refuse_ragged_groups("w", 7, CHANNEL_WISE)
    refuse_ragged_groups("w", 192, 64)
    with pytest.raises(StageFailed) as caught:
        refuse_ragged_groups("w", 7, 64)
    assert caught.value.what.startswith("w has 7 input channels")
    assert caught.value.help == "choose a scheme that ends in cw"


def test_an_unknown_scheme_is_refused(tiny_hub: OnnxModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown scheme 'w4-sym-g63x'") as caught:
        quantize_model(tiny_hub, "w4-sym-g63x", tmp_path, ignore)
    assert "did you mean 'w4-sym-g64'" in caught.value.help


@pytest.mark.parametrize(("scheme", "kept"), [("w8-sym", ""), ("w4-sym-cw", "model.embed_tokens.weight")])
def test_a_hub_in_which_nothing_is_quantized_is_refused(
    tiny_hub: OnnxModel, tmp_path: Path, scheme: str, kept: str
) -> None:
    """Even when the embedding was: it is 8-bit in a 4-bit scheme."""
    model = ir.load(tiny_hub.graph)
    for name in [name for name in model.graph.initializers if "_proj" in name or "embed" in name]:
        if name != kept:
            value = model.graph.initializers.pop(name)
            model.graph.inputs.append(value)
            value.const_value = None
    (tmp_path / "hub").mkdir()
    ir.save(model, tmp_path / "hub" / GRAPH, external_data=WEIGHTS)
    (tmp_path / "out").mkdir()
    with pytest.raises(StageFailed, match=f"{scheme} quantized no weight of the hub"):
        quantize_model(dataclasses.replace(tiny_hub, folder=tmp_path / "hub"), scheme, tmp_path / "out", ignore)
    assert not list((tmp_path / "out").iterdir())


def test_weights_are_found_once_with_their_modules(tiny_hubs: Hubs) -> None:
    hub = tiny_hubs["untied"]
    uses = find_weights(ir.load(hub.graph), hub.facts.vocab_size)
    assert [use.name for use in uses if use.embedding] == ["model.embed_tokens.weight", "lm_head.weight"]
    assert len({use.name for use in uses}) == len(uses) == 16
    for use in uses:
        assert use.array().shape[1] == use.in_channels == (128 if "down_proj" in use.name else 64)
        assert use.linear == (use.name != "model.embed_tokens.weight")
