"""AMD Quark's own AWQ behind an option: what is refused before any work, what is read back, what a package says."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from safetensors.numpy import load_file, save_file

from compile.backends import find_entry
from compile.package import Package
from compile.quark_awq import QuarkInputs, check_maker, choose_with_quark, digest_of, read_chosen
from compile.quark_checkpoint import CONFIG, HEAD, TENSORS, Checkpoint, read_checkpoint
from compile.ryzen_ai_backend import MANIFEST, RyzenAiBackend
from compile.ryzen_ai_options import CHOSEN_BY, check_options, needs, quark_scheme
from export.hub import export_hub
from export.model import Model, import_model
from export.source import LocalFolder
from quantize.calibration import TOKENS, Calibration
from quantize.quantizer import QuantizedModel, quantize_model
from tapeout.planning import make_plan
from targets.errors import StageFailed, UsageError
from targets.target import load_target
from tests.conftest import SIZES, VARIANTS, Quantized
from tests.tiny_build import request
from tests.tiny_folder import edit, load_model, spread_vectors, write_folder
from validate.runtime import WEIGHTS
from validate.ryzen_ai_runtime import RyzenAi

SCHEME = "w4-asym-g32"
IDS = np.arange(3, 35, dtype=np.int64)


def calibration(folder: Path) -> Calibration:
    """Seeded tokens; what they say does not matter to a model that learned nothing."""
    tokens = np.random.default_rng(3).integers(3, 260, (4, 32)).astype(np.int32)
    np.save(folder / TOKENS, tokens)
    return Calibration(folder, "self", "d" * 64, *tokens.shape)


@pytest.fixture(scope="module")
def ours(tiny_quantized: Quantized, tmp_path_factory: pytest.TempPathFactory) -> Package:
    return RyzenAiBackend().compile_package(tiny_quantized[SCHEME], {}, tmp_path_factory.mktemp("ours"))


@pytest.fixture
def theirs(ours: Package, tmp_path: Path) -> Path:
    """A checkpoint as Quark's AWQ writes it: other codes, scales and norms than ours, and AWQ in its config.json."""
    folder = tmp_path / "theirs"
    shutil.copytree(ours.folder / "quark", folder)
    tensors = load_file(folder / TENSORS)
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * np.float32(2)
    scale = "model.layers.1.mlp.down_proj.weight_scale"
    tensors[scale] = tensors[scale] * np.float32(1.25)
    tensors["model.layers.0.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"] ^ np.int32(0x77)
    save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
    described = json.loads((folder / CONFIG).read_text())["quantization_config"]
    edit(folder / CONFIG, quantization_config=described | {"algo_config": [{"name": "awq"}]})
    return folder


def test_the_option_asks_for_the_float_model_and_its_calibration_tokens() -> None:
    entry = find_entry("ryzen-ai")
    assert entry.needs({"quark": "awq"}) == needs({"quark": "awq"}) == ("model", "calibration")
    assert entry.needs({"quark": "load"}) == entry.needs({}) == ()


@pytest.mark.parametrize(("quark", "inputs"), [("none", []), ("awq", ["calibration", "model"])])
def test_a_plan_gives_the_package_what_the_option_asks_for(quark: str, inputs: list[str], tiny_model: Model) -> None:
    target = load_target("ryzen")
    devices = [
        replace(device, runtimes=tuple(replace(each, options={"quark": quark}) for each in device.runtimes))
        for device in target.devices
        if device.name == "npu"
    ]
    plan = make_plan(request(replace(target, devices=tuple(devices)), tiny_model.folder))
    (candidate,) = plan.candidates
    assert sorted(candidate.compile.inputs) == sorted(["quantized", *inputs])
    assert candidate.compile.inputs.get("calibration", plan.calibration) is plan.calibration
    assert candidate.compile.parameters["options"] == {"quark": quark}


def test_the_calibration_tokens_that_quark_gets_are_as_many_as_ours(tiny_model: Model, tmp_path: Path) -> None:
    np.save(tmp_path / TOKENS, np.arange(40 * 8, dtype=np.int32).reshape(40, 8))
    given = QuarkInputs(tiny_model, Calibration(tmp_path, "self", "d" * 64, 40, 8)).tokens()
    assert given.tolist() == np.arange(32 * 8).reshape(32, 8).tolist()


def test_schemes_have_quarks_names() -> None:
    assert [quark_scheme(f"w4-asym-g{group}") for group in (128, 64, 32)] == [
        *("uint4_wo_128", "uint4_wo_64", "uint4_wo_32")
    ]


@pytest.mark.parametrize("recipe", ["w4-sym-g64", "w4-asym-cw", "w4-asym-g16", "w8-asym"])
def test_a_scheme_that_quark_has_not_is_refused_before_any_work(recipe: str) -> None:
    check_options({}, recipe)
    with pytest.raises(UsageError, match=f"no scheme for {recipe}") as refused:
        find_entry("ryzen-ai").check({"quark": "awq"}, recipe)
    assert "w4-asym-g64" in refused.value.help


def test_a_recipe_that_chooses_numbers_itself_is_refused() -> None:
    with pytest.raises(UsageError, match=r"w4-asym-g64\+clip chooses numbers itself") as refused:
        check_options({"quark": "awq"}, "w4-asym-g64+clip")
    assert "w4-asym-g64," in refused.value.help


def test_without_what_awq_looks_at_nothing_is_made(tiny_quantized: Quantized, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs the float model and its calibration tokens"):
        RyzenAiBackend().compile_package(tiny_quantized[SCHEME], {"quark": "awq"}, tmp_path)


def test_a_checkpoint_of_awq_is_read_whole(theirs: Path, ours: Package) -> None:
    chosen, own = read_chosen(theirs), read_checkpoint(ours.folder / "quark")
    assert set(chosen.packed) == set(own.packed)
    assert digest_of(chosen) != digest_of(own)
    assert digest_of(chosen) == digest_of(read_chosen(theirs))


def test_a_changed_norm_alone_changes_the_digest(ours: Package) -> None:
    own = read_checkpoint(ours.folder / "quark")
    norm = own.floats["model.norm.weight"]
    changed = replace(own, floats={**own.floats, "model.norm.weight": norm + np.float32(1e-3)})
    assert digest_of(changed) != digest_of(own)


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ({"version": "0.14", "algo_config": [{"name": "awq"}]}, "version 0.14"),
        ({"version": "0.13", "algo_config": None}, "nothing"),
        ({"version": "0.13", "algo_config": [{"name": "gptq"}]}, "gptq"),
    ],
)
def test_another_release_or_algorithm_is_refused(described: Mapping[str, Any], said: str) -> None:
    with pytest.raises(StageFailed, match=said):
        check_maker(described)


def test_a_tensor_that_is_missing_or_not_finite_is_refused(theirs: Path) -> None:
    whole = load_file(theirs / TENSORS)
    save_file({name: array for name, array in whole.items() if name != "model.norm.weight"}, theirs / TENSORS)
    with pytest.raises(StageFailed, match=r"model\.norm\.weight is missing"):
        read_chosen(theirs)
    norm = whole["model.norm.weight"].copy()
    norm[3] = np.nan
    save_file(whole | {"model.norm.weight": norm}, theirs / TENSORS)
    with pytest.raises(StageFailed, match=r"model\.norm\.weight holds numbers that are not finite"):
        read_chosen(theirs)
    head = {name: array for name, array in whole.items() if not name.startswith("lm_head")}
    save_file(head, theirs / TENSORS)
    with pytest.raises(StageFailed, match=f"packed {HEAD}"):
        read_chosen(theirs)


def test_the_package_has_quarks_numbers_in_checkpoint_and_graph_and_says_so(
    theirs: Path,
    ours: Package,
    tiny_quantized: Quantized,
    tiny_model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = packaged(theirs, tiny_quantized[SCHEME], tiny_model, tmp_path, monkeypatch)
    assert package.weights_digest == digest_of(read_checkpoint(theirs)) != ours.weights_digest
    assert package.checks["quantized_weights"] == package.checks["checkpoint_uint4_weights"] == 15
    assert package.requires[CHOSEN_BY] == (f"AMD Quark 0.13, AWQ, uint4_wo_32, 128 tokens of calibration {'d' * 16}")
    assert CHOSEN_BY not in ours.requires
    manifest = json.loads((package.folder / MANIFEST).read_text())
    assert manifest["requires"] == package.requires
    assert package.requires[CHOSEN_BY] in manifest["tied_to_release"]["weights"]
    graph = ir.load(package.folder / "oga" / "model.onnx")
    norm = graph.graph.initializers["model.norm.weight"].const_value
    assert norm is not None
    assert np.array_equal(norm.numpy(), read_checkpoint(theirs).floats["model.norm.weight"])
    assert np.abs(logits(package) - logits(ours)).max() > 1e-3


def test_our_own_numbers_adopted_compute_what_our_package_computes(
    ours: Package, tiny_quantized: Quantized, tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The float embedding table, too, reaches the graph: it holds what the 8-bit one stands for."""
    package = packaged(ours.folder / "quark", tiny_quantized[SCHEME], tiny_model, tmp_path, monkeypatch)
    assert np.abs(logits(package) - logits(ours)).max() < 1e-4


def test_a_hub_of_another_scheme_does_not_take_the_numbers(theirs: Path, tiny_quantized: Quantized) -> None:
    from compile.ryzen_ai_adopt import adopt
    from compile.ryzen_ai_head import round_head

    hub = ir.load(tiny_quantized["w4-asym-g64"].graph)
    round_head(hub)
    with pytest.raises(StageFailed, match=r"4, 64, True\) in the hub, and .* 4, 32, True\) in the checkpoint"):
        adopt(hub, read_checkpoint(theirs))


def packaged(
    folder: Path, quantized: QuantizedModel, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Package:
    """The package that is made when Quark writes the checkpoint in `folder`."""

    def choose(inputs: QuarkInputs, schemes: tuple[str, str], out: Path, scratch: Path) -> Checkpoint:
        assert (inputs.model, schemes) == (model, (SCHEME, SCHEME))
        for name in (CONFIG, TENSORS):
            shutil.copyfile(folder / name, out / name)
        return read_checkpoint(out)

    monkeypatch.setattr("compile.ryzen_ai_checkpoint.choose_with_quark", choose)
    (tmp_path / "out").mkdir()
    tokens = calibration(tmp_path)
    return RyzenAiBackend().compile_package(quantized, {"quark": "awq"}, tmp_path / "out", model, tokens)


def logits(package: Package) -> np.ndarray:
    """Of the stand-in that a package is measured by."""
    return RyzenAi().session(package.folder, package.settings, WEIGHTS).step(IDS)


@pytest.mark.deep
@pytest.mark.timeout(5400)
def test_amd_quark_chooses_the_numbers_of_a_package(tmp_path: Path) -> None:
    """Installs Quark where it is not yet. Its own reader takes only vocabularies that fill its words of eight."""
    for name in ("source", "model", "hub", "quantized", "package", "tokens", "again"):
        (tmp_path / name).mkdir()
    source = write_folder(tmp_path / "source", **(SIZES | VARIANTS["llama"] | {"vocab_size": 512}))
    spread_vectors(source)
    model = import_model(LocalFolder(source), tmp_path / "model", tmp_path / "downloads")
    quantized = quantize_model(export_hub(model, tmp_path / "hub"), SCHEME, tmp_path / "quantized", lambda *_: None)
    tokens = calibration(tmp_path / "tokens")
    package = RyzenAiBackend().compile_package(quantized, {"quark": "awq"}, tmp_path / "package", model, tokens)
    assert package.checks["weights_read_by_quark"] == package.checks["checkpoint_uint4_weights"] == 15
    assert package.weights_digest != quantized.weights_digest
    chosen = read_chosen(package.folder / "quark")
    norm = load_file(model.folder / "model.safetensors")["model.layers.0.input_layernorm.weight"]
    assert not np.allclose(chosen.floats["model.layers.0.input_layernorm.weight"], norm)  # AWQ divided it
    assert kl_from_float(package, model) < 0.05
    with pytest.raises(StageFailed, match=r"AMD Quark 0\.13: AWQ with uint4_wo_128 ended with code 1"):
        choose_with_quark(QuarkInputs(model, tokens), ("w4-asym-g128", SCHEME), tmp_path / "again", tmp_path)


def kl_from_float(package: Package, model: Model) -> float:
    """Mean KL of a package's stand-in from the float model, in nats."""
    import torch

    with torch.no_grad():
        reference = load_model(model.folder)(torch.from_numpy(IDS[None])).logits[0].double().log_softmax(-1)
    found = torch.from_numpy(logits(package)).double().log_softmax(-1)
    return float((reference.exp() * (reference - found)).sum(-1).mean())
