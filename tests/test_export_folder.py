"""Hugging Face folders: what is unsafe, incomplete or another architecture is refused by its fault."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from export.folder_check import check_folder
from export.model import import_model
from export.source import LocalFolder
from targets.errors import InputRefused
from tests.tiny_folder import edit, write_folder


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("sound") / "model")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("sharded") / "model", shard_bytes=40_000)


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "model"))


@pytest.fixture
def shards(sharded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sharded, tmp_path / "shards"))


def refused(folder: Path, fault: str) -> InputRefused:
    with pytest.raises(InputRefused, match=fault) as caught:
        import_model(LocalFolder(folder), folder.parent / "out", folder.parent / "cache")
    assert caught.value.exit_code == 4
    assert caught.value.help
    return caught.value


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def link_out(folder: Path) -> None:
    (folder / "config.json").rename(folder.parent / "elsewhere.json")
    (folder / "config.json").symlink_to(folder.parent / "elsewhere.json")


def link_deep(folder: Path) -> None:
    (folder / "onnx").mkdir()
    (folder / "onnx" / "up").symlink_to("/")


def library_below(folder: Path) -> None:
    (folder / "x").mkdir()
    (folder / "x" / "a.so").write_bytes(b"")


def template_in_config(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    edit(folder / "tokenizer_config.json", chat_template="x" * 70_000)


def key_twice(folder: Path) -> None:
    text = (folder / "config.json").read_text().rstrip().rstrip("}")
    (folder / "config.json").write_text(text + ', "model_type": "llama"}')


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickle": (only_pickle, "can run code"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json"),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "python": (lambda f: (f / "modeling_llama.py").write_text("1"), "is a program"),
    "library below": (library_below, "is a program"),
    "link": (link_out, "is a link"),
    "link below": (link_deep, "is a link"),
    "pipe": (lambda f: os.mkfifo(f / "pipe"), "a link or a device"),
    "auto_map": (lambda f: edit(f / "config.json", auto_map={"AutoModel": "x.Y"}), "'auto_map'"),
    "deep code key": (lambda f: edit(f / "tokenizer_config.json", a=[{"b": {"_target_": "os"}}]), "'_target_'"),
    "trust": (lambda f: edit(f / "generation_config.json", trust_remote_code=True), "'trust_remote_code'"),
    "architecture": (lambda f: edit(f / "config.json", architectures=["GPT2LMHeadModel"]), "'GPT2LMHeadModel'"),
    "no architecture": (lambda f: edit(f / "config.json", architectures=None), "one architecture"),
    "model type": (lambda f: edit(f / "config.json", model_type="bert"), "model type 'bert'"),
    "zero layers": (lambda f: edit(f / "config.json", num_hidden_layers=0), "num_hidden_layers = 0"),
    "many layers": (lambda f: edit(f / "config.json", num_hidden_layers=10**9), "num_hidden_layers"),
    "heads": (lambda f: edit(f / "config.json", num_key_value_heads=3), "4 heads over 3"),
    "another shape": (lambda f: edit(f / "config.json", vocab_size=7), "embed_tokens"),
    "missing tensor": (lambda f: edit(f / "config.json", attention_bias=True), "lacks the tensor"),
    "surplus tensor": (lambda f: edit(f / "config.json", num_hidden_layers=1), "no place"),
    "mlp bias": (lambda f: edit(f / "config.json", mlp_bias=True), "mlp_bias"),
    "quantized": (lambda f: edit(f / "config.json", quantization_config={"bits": 4}), "quantized"),
    "rope type": (lambda f: edit(f / "config.json", rope_scaling={"rope_type": "dynamic", "factor": 2.0}), "'dynamic'"),
    "rope scaling": (lambda f: edit(f / "config.json", rope_scaling=[1]), "scales its rotary"),
    "tokenizer kind": (lambda f: edit(f / "tokenizer.json", model={"type": "WordPiece"}), "not a BPE"),
    "tokenizer broken": (lambda f: edit(f / "tokenizer.json", model={"type": "BPE", "vocab": 1}), "cannot be loaded"),
    "template": (template_in_config, "chat template"),
    "config key twice": (key_twice, "appears twice"),
    "config of NaN": (lambda f: edit(f / "config.json", rope_theta=float("nan")), "not a number"),
    "config too large": (lambda f: (f / "config.json").write_text(" " * (2 << 20)), "larger than"),
    "header": (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64), "does not fit"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_folder_is_refused_by_its_fault(name: str, folder: Path) -> None:
    spoil, fault = FAULTS[name]
    spoil(folder)
    refused(folder, fault)


def test_the_refusal_of_a_pickle_names_the_safe_way(folder: Path) -> None:
    only_pickle(folder)
    assert "safe_serialization=True" in refused(folder, "can run code").help


def test_a_pickle_beside_safetensors_stays_behind(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    out = folder.parent / "out"
    import_model(LocalFolder(folder), out, folder.parent / "cache")
    assert not list(out.glob("*.bin"))


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "cannot be read")


def test_an_active_sliding_window_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    mistral = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    (folder / "config.json").write_text(json.dumps(config | mistral | {"sliding_window": 16}))
    refused(folder, "window of 16")
    (folder / "config.json").write_text(json.dumps(config | mistral | {"sliding_window": None}))
    check_folder(folder)


@pytest.mark.parametrize(
    ("shard", "fault"),
    [
        ("../model.safetensors", "no file of the folder"),
        ("/etc/passwd", "no file of the folder"),
        ("missing.safetensors", "no file of the folder"),
        (3, "no file of the folder"),
    ],
)
def test_an_index_stays_inside_its_folder(shard: object, fault: str, shards: Path) -> None:
    index = shards / "model.safetensors.index.json"
    weights = json.loads(index.read_text())["weight_map"]
    edit(index, weight_map=weights | {"model.norm.weight": shard})
    refused(shards, fault)


def test_an_index_agrees_with_its_shards(shards: Path) -> None:
    index = shards / "model.safetensors.index.json"
    weights = json.loads(index.read_text())["weight_map"]
    edit(index, weight_map={name: weights[name] for name in sorted(weights)[1:]})
    refused(shards, "do not hold the same")


def test_shards_are_kept(shards: Path) -> None:
    out = shards.parent / "out"
    model = import_model(LocalFolder(shards), out, shards.parent / "cache")
    kept, given = ({path.name for path in place.glob("*.safetensors")} for place in (out, shards))
    assert kept == given
    assert (out / "model.safetensors.index.json").is_file()
    assert model.n_layers == 2
