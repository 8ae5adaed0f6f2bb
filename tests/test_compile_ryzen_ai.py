"""The hand-off for AMD's NPU: the checkpoint, the graph and the script agree, and say what they are tied to."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from compile.package import Package
from compile.quark_checkpoint import CONFIG, HEAD, TENSORS, read_checkpoint
from compile.quark_load import check_with_quark
from compile.ryzen_ai_backend import MANIFEST, RECIPES, SCRIPT, RyzenAiBackend
from export.hub import export_hub
from export.model import import_model
from export.source import LocalFolder
from quantize.quantizer import QuantizedModel, quantize_model
from targets.errors import StageFailed, UsageError
from targets.legality import check, parse_scheme
from targets.status import Status
from tests.conftest import SIZES, VARIANTS, Quantized, QuantizedVariants
from tests.tiny_folder import edit, spread_vectors, write_folder


@pytest.fixture(scope="module")
def package(tiny_quantized: Quantized, tmp_path_factory: pytest.TempPathFactory) -> Package:
    return RyzenAiBackend().compile_package(tiny_quantized["w4-asym-g32"], {}, tmp_path_factory.mktemp("ryzen-ai"))


def test_the_checkpoint_holds_the_quantized_weights(package: Package, tiny_quantized: Quantized) -> None:
    quantized = tiny_quantized["w4-asym-g32"]
    checkpoint = read_checkpoint(package.folder / "quark")
    packed = {name: weight.digest() for name, weight in checkpoint.packed.items() if name != HEAD}
    assert packed == {name: digest for name, digest in quantized.weights.items() if "embed" not in name}
    assert package.weights_digest == quantized.weights_digest
    assert checkpoint.packed[HEAD].group_size == 32
    assert package.checks["checkpoint_uint4_weights"] == len(packed) + 1


def test_config_and_tensors_are_named_as_quark_names_them(package: Package) -> None:
    config = json.loads((package.folder / "quark" / CONFIG).read_text())
    described = config["quantization_config"]
    assert (described["quant_method"], described["version"], described["exclude"]) == ("quark", "0.13", [])
    weight = described["global_quant_config"]["weight"]
    assert (weight["dtype"], weight["qscheme"], weight["group_size"], weight["symmetric"]) == (
        "uint4",
        "per_group",
        32,
        False,
    )
    assert config["tie_word_embeddings"] is False
    assert (config["hidden_size"], config["architectures"]) == (64, ["LlamaForCausalLM"])


def test_it_is_prepared_and_says_what_it_is_tied_to(package: Package) -> None:
    assert package.evidence == (Status.PREPARED,)
    assert package.next_step is not None
    assert SCRIPT in package.next_step
    assert (package.folder / SCRIPT).is_file()
    assert package.requires["ryzen_ai"] == "1.8.0"
    assert package.requires["pci_id"] == "1022:17F0"
    manifest = json.loads((package.folder / MANIFEST).read_text())
    assert manifest["requires"] == package.requires
    assert manifest["model_generate"]["full_fusion"] == [
        *("--npu", "--full_fusion", "--input", "quark", "--output", "generated")
    ]
    assert "max_seq_len=16384" in manifest["model_generate"]["token_fusion"]


def test_the_script_reads_only_what_the_manifest_has(package: Package) -> None:
    script = (package.folder / SCRIPT).read_text()
    manifest = json.loads((package.folder / MANIFEST).read_text())
    assert set(re.findall(r"\$requires\.(\w+)", script)) <= set(manifest["requires"])
    assert set(re.findall(r"\$manifest\.(\w+)", script)) <= set(manifest)
    assert re.findall(r"ValidateSet\(('full_fusion'[^)]*)\)", script) == [", ".join(f"'{name}'" for name in RECIPES)]
    for name in ("quark/model.safetensors", "oga/model.onnx.data"):
        assert name in script
        assert (package.folder / name).is_file()


def test_the_script_refuses_xdna1_with_the_legality_tables_sentence(package: Package) -> None:
    with pytest.raises(UsageError) as refused:
        check(*parse_scheme("w4-asym-g128"), "amd-npu-xdna1")
    sentence = refused.value.what.split(": ", 1)[1]
    assert "no language model" in sentence
    assert sentence in (package.folder / SCRIPT).read_text()
    assert package.requires["refused_pci_id"] == "1022:1502"


@pytest.mark.parametrize("variant", ["untied", "qwen2", "qwen3"])
def test_every_architecture_has_all_its_tensors(
    quantized_variants: QuantizedVariants, tmp_path: Path, variant: str
) -> None:
    quantized = quantized_variants[variant, "w4-asym-g32"]
    package = RyzenAiBackend().compile_package(quantized, {}, tmp_path)
    assert package.weights_digest == quantized.weights_digest


def test_weights_of_eight_bits_or_of_several_group_sizes_are_refused(tiny_quantized: Quantized, tmp_path: Path) -> None:
    (tmp_path / "eight").mkdir()
    with pytest.raises(StageFailed, match="8-bit codes"):
        RyzenAiBackend().compile_package(tiny_quantized["w8-asym"], {}, tmp_path / "eight")
    (tmp_path / "channel").mkdir()
    with pytest.raises(StageFailed, match="Quark names one size for all"):
        RyzenAiBackend().compile_package(tiny_quantized["w4-asym-cw"], {}, tmp_path / "channel")


def test_a_vector_that_a_checkpoint_has_no_place_for_is_refused(tiny_quantized: Quantized, tmp_path: Path) -> None:
    changed = with_factor(tiny_quantized["w4-asym-g32"], tmp_path / "changed")
    (tmp_path / "out").mkdir()
    with pytest.raises(StageFailed, match=r"computes with smoothing\.factor"):
        RyzenAiBackend().compile_package(changed, {}, tmp_path / "out")


def with_factor(quantized: QuantizedModel, out: Path) -> QuantizedModel:
    """The quantized model with a factor on the last norm's result."""
    import onnx_ir as ir

    from quantize.hub_weights import add_initializer

    shutil.copytree(quantized.folder, out)
    hub = ir.load(quantized.graph)
    factor = add_initializer(hub.graph, "smoothing.factor", np.full(64, 2, np.float32))
    head = hub.graph.outputs[0].producer()
    assert head is not None
    product = ir.node("Mul", [head.inputs[0], factor], name="smoothing")
    hub.graph.insert_before(head, product)
    head.replace_input_with(0, product.outputs[0])
    (out / "model.onnx").unlink()
    ir.save(hub, out / "model.onnx", external_data="changed.data")
    return dataclasses.replace(quantized, folder=out)


def test_a_checkpoint_that_is_not_what_config_says_is_refused(package: Package, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(package.folder / "quark", other)
    described = json.loads((other / CONFIG).read_text())["quantization_config"]
    described["global_quant_config"]["weight"]["group_size"] = 64
    edit(other / CONFIG, quantization_config=described)
    with pytest.raises(StageFailed, match=r"config\.json says 64"):
        read_checkpoint(other)
    described["quant_method"] = "awq"
    edit(other / CONFIG, quantization_config=described)
    with pytest.raises(StageFailed, match="not one of Quark's"):
        read_checkpoint(other)
    assert (other / TENSORS).is_file()


def test_an_unknown_way_to_ask_quark_is_answered_with_the_nearest(tiny_quantized: Quantized, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown value of the option quark 'laod'") as caught:
        RyzenAiBackend().compile_package(tiny_quantized["w4-asym-g32"], {"quark": "laod"}, tmp_path)
    assert "load" in caught.value.help


@pytest.mark.deep
@pytest.mark.timeout(5400)
def test_amd_quark_reads_the_same_weights(tmp_path: Path) -> None:
    """Installs Quark where it is not yet. Its own reader takes only vocabularies that fill its words of eight."""
    for name in ("source", "model", "hub", "quantized", "package"):
        (tmp_path / name).mkdir()
    source = write_folder(tmp_path / "source", **(SIZES | VARIANTS["llama"] | {"vocab_size": 512}))
    spread_vectors(source)
    model = import_model(LocalFolder(source), tmp_path / "model", tmp_path / "downloads")
    hub = export_hub(model, tmp_path / "hub")
    quantized = quantize_model(hub, "w4-asym-g32", tmp_path / "quantized", lambda done, total: None)
    package = RyzenAiBackend().compile_package(quantized, {"quark": "load"}, tmp_path / "package")
    assert package.checks["weights_read_by_quark"] == package.checks["checkpoint_uint4_weights"] == 15
    checkpoint = read_checkpoint(package.folder / "quark")
    name, weight = next(iter(checkpoint.packed.items()))
    other = dataclasses.replace(weight, scales=weight.scales * np.float32(1.5))
    changed = dataclasses.replace(checkpoint, packed={**checkpoint.packed, name: other})
    with pytest.raises(StageFailed, match=f"reads other numbers than ours from {name}"):
        check_with_quark(package.folder / "quark", changed, tmp_path)
