"""Importing: GGUF against transformers' own dequantization, folders, provenance, determinism, and the real model."""

import dataclasses
import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter

from export.digest import list_files
from export.gguf_rope import llama3_factors
from export.licence import licence_of_card, spdx
from export.model import TOKENIZER_FILES, Model, import_model, read_model
from export.source import GgufFile, LocalFolder
from targets.errors import InputRefused, NoSpace
from tests.tiny_folder import edit, load_model, write_folder
from tests.tiny_gguf import (
    Decoder,
    Vocabulary,
    add_value,
    add_vocabulary,
    byte_level,
    sentencepiece,
    tensors_of,
    write_model,
)

Kind = GGMLQuantizationType


def import_gguf(path: Path) -> Model:
    return import_model(GgufFile(path), path.parent / "out", path.parent / "cache")


def refused(path: Path, fault: str) -> InputRefused:
    with pytest.raises(InputRefused, match=fault) as caught:
        import_gguf(path)
    assert caught.value.help
    return caught.value


DECODERS = {
    "llama": (Decoder(), byte_level("llama-bpe", {"tokenizer.ggml.add_bos_token": False})),
    "llama tied": (Decoder(tied=True), sentencepiece()),
    "llama Q4_0": (Decoder(kind=Kind.Q4_0), byte_level("gpt-2")),
    "llama Q8_0, all heads": (Decoder(kv_heads=4, kind=Kind.Q8_0), byte_level("smollm")),
    "qwen2": (Decoder(architecture="qwen2"), byte_level("qwen2")),
    "qwen2 Q5_1 tied": (Decoder(architecture="qwen2", tied=True, kind=Kind.Q5_1), byte_level("qwen2")),
    "llama F16": (Decoder(kind=Kind.F16), byte_level("gpt-2")),
    "llama BF16": (Decoder(kind=Kind.BF16), byte_level("gpt-2")),
}


@pytest.mark.parametrize("name", DECODERS)
def test_a_gguf_gives_the_weights_and_logits_that_transformers_gives(name: str, tmp_path: Path) -> None:
    import torch

    decoder, vocabulary = DECODERS[name]
    path = write_model(tmp_path / "tiny.gguf", decoder, vocabulary)
    model = import_gguf(path)
    theirs, ours = load_model(tmp_path, gguf_file=path.name), load_model(model.folder)
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], tensor), key
    tokens = torch.arange(40).reshape(2, 20)
    assert torch.equal(ours(tokens).logits, theirs(tokens).logits)
    assert model.parameters == sum(weight.numel() for weight in ours.parameters())
    assert model.tied_embeddings == decoder.tied


@pytest.mark.parametrize(
    ("kind", "found"), [(Kind.F32, None), (Kind.F16, None), (Kind.BF16, None), (Kind.Q4_0, "Q4_0"), (Kind.Q8_0, "Q8_0")]
)
def test_the_grid_of_the_source_is_kept_in_mind(kind: Kind, found: str | None, tmp_path: Path) -> None:
    model = import_gguf(write_model(tmp_path / "tiny.gguf", Decoder(layers=1, kind=kind), byte_level("gpt-2")))
    assert model.quantized_source == found


def test_the_facts_of_a_gguf(tmp_path: Path) -> None:
    path = write_model(tmp_path / "My Tiny.gguf", Decoder(), byte_level("gpt-2"), {"general.license": "mit"})
    model = import_gguf(path)
    assert (model.name, model.architecture, model.licence) == ("my-tiny", "llama", "MIT")
    assert (model.hidden_size, model.n_layers, model.n_heads, model.n_kv_heads, model.head_dim) == (64, 2, 4, 2, 16)
    assert (model.vocab_size, model.max_positions) == (len(byte_level("gpt-2").tokens), 128)
    assert set(model.source) == {"kind", "name", "sha256"}
    assert read_model(model.folder) == model
    assert not isinstance(model.facts, Model)
    assert model.facts.vocab_size == model.vocab_size
    config = json.loads((model.folder / "config.json").read_text())
    assert (config["rms_norm_eps"], config["rope_theta"], config["rope_scaling"]) == (1e-5, 10000.0, None)


def test_the_same_gguf_gives_the_same_bytes_anywhere(tmp_path: Path) -> None:
    found = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        path = write_model(tmp_path / place / "m.gguf", Decoder(kind=Kind.Q4_0), byte_level("smollm"))
        found.append(list_files(import_gguf(path).folder))
    assert found[0] == found[1]


def test_a_folder_is_copied_byte_for_byte(tmp_path: Path) -> None:
    given = write_folder(tmp_path / "model", tie_word_embeddings=True)
    model = import_model(LocalFolder(given), tmp_path / "out", tmp_path / "cache")
    before, after = list_files(given), list_files(model.folder)
    assert {name: after[name] for name in before if name != "README.md"} == {n: before[n] for n in before if n in after}
    assert (model.licence, model.quantized_source, model.tied_embeddings) == ("MIT", None, True)
    assert not any((model.folder / name).stat().st_nlink > 1 for name in after)
    assert set(TOKENIZER_FILES) <= set(after)
    assert model.source["kind"] == "folder"


def test_progress_counts_every_byte_that_is_copied_and_looked_at(tmp_path: Path) -> None:
    given = write_folder(tmp_path / "model")
    told: list[tuple[int, int]] = []
    import_model(LocalFolder(given), tmp_path / "out", tmp_path, lambda done, total: told.append((done, total)))
    sizes = {path.name: path.stat().st_size for path in given.iterdir() if path.name != "README.md"}
    whole = sum(sizes.values()) + sizes["model.safetensors"]
    assert told[-1] == (whole, whole)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_what_a_folder_leaves_out_is_filled_in(tmp_path: Path) -> None:
    given = write_folder(tmp_path / "model")
    for name in ("generation_config.json", "chat_template.jinja", "README.md"):
        (given / name).unlink()
    edit(given / "config.json", eos_token_id=5)
    model = import_model(LocalFolder(given), tmp_path / "out", tmp_path / "cache")
    assert json.loads((model.folder / "generation_config.json").read_text())["eos_token_id"] == 5
    assert (model.folder / "chat_template.jinja").read_text() == "{{ messages[0]['content'] }}"
    assert model.licence == "NOASSERTION"


def test_a_full_disk_is_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path / "tiny.gguf", Decoder(layers=1), byte_level("gpt-2"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("export.model.write_weights", full)
    with pytest.raises(NoSpace) as caught:
        import_gguf(path)
    assert caught.value.help


def test_an_edited_import_is_refused_on_reading(tmp_path: Path) -> None:
    model = import_gguf(write_model(tmp_path / "tiny.gguf", Decoder(layers=1), byte_level("gpt-2")))
    (model.folder / "provenance.json").write_text("{}")
    with pytest.raises(InputRefused, match="provenance"):
        read_model(model.folder)


# What a GGUF file may say that we do not build, field by field.
UNKNOWN: dict[str, tuple[dict[str, Any], str]] = {
    "experts": ({"llama.expert_count": 8}, "mixture of experts"),
    "split": ({"split.count": 2}, "one part"),
    "yarn": ({"llama.rope.scaling.type": "yarn"}, "'yarn'"),
    "scaling without a type": ({"llama.rope.scaling.factor": 4.0}, "scales its rotary embedding by 4"),
    "partial rotary": ({"llama.rope.dimension_count": 8}, "unequal parts"),
    "value length": ({"llama.attention.value_length": 8}, "unequal parts"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_we_do_not_build_is_refused(name: str, tmp_path: Path) -> None:
    fields, fault = UNKNOWN[name]
    refused(write_model(tmp_path / "tiny.gguf", Decoder(layers=1), byte_level("gpt-2"), fields), fault)


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    path = write_model(tmp_path / "tiny.gguf", Decoder(architecture="bert"), byte_level("gpt-2"))
    error = refused(path, "'bert'")
    assert "llama" in error.help
    assert "qwen2" in error.help


def write_tensors(path: Path, arrays: dict[str, np.ndarray], vocabulary: Vocabulary, **fields: Any) -> Path:
    """A GGUF file of the tiny decoder with these very tensors."""
    numbers = {"block_count": 1, "context_length": 128, "embedding_length": 64, "feed_forward_length": 96}
    numbers |= {"attention.head_count": 4, "attention.head_count_kv": 2}
    writer = GGUFWriter(path, "llama")
    for key, value in numbers.items():
        writer.add_uint32(f"llama.{key}", value)
    for key, value in ({"llama.attention.layer_norm_rms_epsilon": 1e-5} | fields).items():
        add_value(writer, key, value)
    add_vocabulary(writer, vocabulary)
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


VOCABULARY = byte_level("gpt-2")
ARRAYS = tensors_of(Decoder(layers=1), len(VOCABULARY.tokens))


def test_a_missing_tensor_is_refused(tmp_path: Path) -> None:
    arrays = {name: array for name, array in ARRAYS.items() if name != "blk.0.attn_q.weight"}
    refused(write_tensors(tmp_path / "m.gguf", arrays, VOCABULARY), r"no tensor 'blk\.0\.attn_q\.weight'")


def test_a_tensor_without_a_place_is_refused(tmp_path: Path) -> None:
    arrays = ARRAYS | {"blk.0.attn_q.bias": np.zeros(64, np.float32)}
    refused(write_tensors(tmp_path / "m.gguf", arrays, VOCABULARY), "no place")


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    arrays = ARRAYS | {"blk.0.attn_k.weight": np.zeros((64, 64), np.float32)}
    refused(write_tensors(tmp_path / "m.gguf", arrays, VOCABULARY), r"\[64, 64\], not \[32, 64\]")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_numbers_are_refused(value: float, tmp_path: Path) -> None:
    arrays = ARRAYS | {"output_norm.weight": np.full(64, value, np.float32)}
    refused(write_tensors(tmp_path / "m.gguf", arrays, VOCABULARY), "not finite")


def test_fewer_embeddings_than_tokens_are_refused(tmp_path: Path) -> None:
    arrays = ARRAYS | {"token_embd.weight": np.zeros((10, 64), np.float32)}
    refused(write_tensors(tmp_path / "m.gguf", arrays, VOCABULARY), "10 embeddings")


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_factors_are_recognised(factor: float, tmp_path: Path) -> None:
    import torch
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    factors = llama3_factors(factor, 10000.0, 16).astype(np.float32)
    path = write_tensors(tmp_path / "m.gguf", ARRAYS | {"rope_freqs.weight": factors}, VOCABULARY)
    model = import_gguf(path)
    config = LlamaConfig.from_pretrained(model.folder)
    assert config.rope_scaling["rope_type"] == "llama3"
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 10000.0 ** -(np.arange(0, 16, 2) / 16)
    assert np.allclose(plain / factors, scaled.numpy(), rtol=1e-5)


def test_other_rotary_factors_are_refused(tmp_path: Path) -> None:
    factors = np.linspace(1, 8, 8, dtype=np.float32)
    refused(
        write_tensors(tmp_path / "m.gguf", ARRAYS | {"rope_freqs.weight": factors}, VOCABULARY), "not those of Llama 3"
    )


def test_linear_scaling_is_kept(tmp_path: Path) -> None:
    scaling: dict[str, Any] = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    model = import_gguf(write_tensors(tmp_path / "m.gguf", ARRAYS, VOCABULARY, **scaling))
    config = json.loads((model.folder / "config.json").read_text())
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("declared", "found"),
    [("apache-2.0", "Apache-2.0"), (None, "NOASSERTION"), (" ", "NOASSERTION"), ("llama3.2", "LicenseRef-llama3.2")],
)
def test_licences_become_spdx(declared: str | None, found: str) -> None:
    assert spdx(declared) == found


@pytest.mark.parametrize("card", ["", "no front matter\nlicense: mit\n", "---\ntags: []\n---\n"])
def test_a_card_without_a_licence_says_nothing(card: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence_of_card(tmp_path / "README.md") == "NOASSERTION"


def test_a_model_is_a_frozen_value(tmp_path: Path) -> None:
    model = import_gguf(write_model(tmp_path / "tiny.gguf", Decoder(layers=1), byte_level("gpt-2")))
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.name = "other"  # type: ignore[misc]
