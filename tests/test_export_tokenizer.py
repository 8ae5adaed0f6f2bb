"""Our tokenizers against llama.cpp's, whose ids are frozen in tests/data, and what we refuse to guess."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from export.gguf_reader import read_gguf
from export.gguf_tokenizer import build_tokenizer, write_tokenizer
from export.gguf_types import TENSOR_TYPES
from export.gguf_vocabulary import Vocabulary, read_vocabulary
from targets.errors import InputRefused
from tests.data.make_token_ids import KEY, TEXTS, vocabularies
from tests.tiny_folder import compile_tokenizer, load_tokenizer
from tests.tiny_gguf import Vocabulary as Written
from tests.tiny_gguf import byte_level, sentencepiece, write_vocabulary

DATA = Path(__file__).parent / "data"
TINY: dict[str, Any] = json.loads((DATA / "tiny_token_ids.json").read_text())["cases"]


def differences(tokenizer: Any, cases: list[dict[str, Any]]) -> list[tuple[str, str, list[int], list[int]]]:
    """The cases where our ids are not llama.cpp's, special tokens read as such and as plain text."""
    found = []
    for meaning in ("special", "plain"):
        tokenizer.encode_special_tokens = meaning == "plain"
        for case in cases:
            ours = tokenizer.encode(case["text"]).ids
            if ours != case[meaning]:
                found.append((meaning, case["text"], ours, case[meaning]))
    return found


def read(folder: Path, written: Written) -> Vocabulary:
    return read_vocabulary(read_gguf(write_vocabulary(folder / "vocabulary.gguf", written)))


def refused(folder: Path, written: Written, fault: str) -> InputRefused:
    with pytest.raises(InputRefused, match=fault) as caught:
        read(folder, written)
    assert caught.value.help
    return caught.value


@pytest.mark.parametrize("name", sorted(TINY))
def test_every_known_pre_tokenizer_gives_the_ids_of_llama_cpp(name: str, tmp_path: Path) -> None:
    assert [case["text"] for case in TINY[name]] == list(TEXTS)
    assert differences(build_tokenizer(read(tmp_path, vocabularies()[name])), TINY[name]) == []


def test_the_pre_tokenizers_differ_on_the_texts() -> None:
    """Equal ids for two of them would mean that the texts prove nothing about one."""
    ids = {name: json.dumps([case["plain"] for case in TINY[name]]) for name in TINY}
    kinds = ["gpt-2", "smollm", "llama-bpe", "qwen2", "spm", "spm-no-prefix"]
    assert len({ids[name] for name in kinds}) == len(kinds)


@pytest.mark.parametrize("name", ["gpt-2", "smollm", "llama-bpe", "qwen2", "spm", "spm-no-prefix"])
def test_decoding_gives_the_text_back(name: str, tmp_path: Path) -> None:
    tokenizer = build_tokenizer(read(tmp_path, vocabularies()[name]))
    for text in TEXTS:
        if "<" not in text:
            assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_qwen2_composes_accents_as_its_own_tokenizer_does(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(read(tmp_path, byte_level("qwen2")))
    assert tokenizer.encode("e\u0301").ids == tokenizer.encode("\u00e9").ids


@pytest.mark.parametrize("pre", ["deepseek-llm", "default", "llama-bpe "])
def test_an_unknown_pre_tokenizer_is_refused_by_name(pre: str, tmp_path: Path) -> None:
    error = refused(tmp_path, byte_level(pre), f"'{pre}'")
    assert all(known in error.help for known in ("gpt-2", "llama-bpe", "qwen2", "smollm"))


def test_a_missing_pre_tokenizer_is_not_guessed(tmp_path: Path) -> None:
    refused(tmp_path, byte_level(None), "no pre-tokenizer")


def test_an_unknown_kind_of_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    error = refused(tmp_path, dataclasses.replace(sentencepiece(), model="t5"), "'t5'")
    assert "gpt2" in error.help
    assert "llama" in error.help


BROKEN: dict[str, tuple[Mapping[str, Any], str]] = {
    "tokens twice": ({"tokens": ("a", "a"), "types": (1, 1), "merges": ()}, "same text"),
    "types too few": ({"types": (1,)}, "as many as"),
    "merge of nothing": ({"merges": ("zz zz",)}, "merge"),
    "merge without a space": ({"merges": ("the",)}, "merge"),
    "eos outside": ({"extra": {f"{KEY}.eos_token_id": 1 << 20}}, "eos token"),
    "eos of the wrong type": ({"extra": {f"{KEY}.eos_token_id": "two"}}, "not of type int"),
    "no eos": ({"extra": {}}, "ends a text"),
    "bos wanted, not named": (
        {"extra": {f"{KEY}.eos_token_id": 1, f"{KEY}.add_bos_token": True}},
        "names none",
    ),
    "long template": ({"extra": {f"{KEY}.eos_token_id": 1, "tokenizer.chat_template": "x" * 70_000}}, "template"),
    "long token": ({"tokens": ("a" * 5000,), "types": (1,), "merges": ()}, "longer than"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_contradictory_vocabulary_is_refused(name: str, tmp_path: Path) -> None:
    changes, fault = BROKEN[name]
    refused(tmp_path, dataclasses.replace(byte_level("gpt-2"), **changes), fault)


def test_a_piece_too_long_to_cut_everywhere_is_refused(tmp_path: Path) -> None:
    pieces = sentencepiece()
    written = dataclasses.replace(
        pieces, tokens=(*pieces.tokens, "a" * 300), types=(*pieces.types, 1), scores=(*pieces.scores, -1.0)
    )
    with pytest.raises(InputRefused, match="300 characters"):
        build_tokenizer(read(tmp_path, written))


def test_bos_is_added_only_when_the_file_says_so_or_its_kind_implies_it(tmp_path: Path) -> None:
    bos = byte_level("gpt-2").index("<|im_start|>")
    named = {f"{KEY}.bos_token_id": bos}
    assert not read(tmp_path, byte_level("gpt-2", named)).add_bos
    assert read(tmp_path, byte_level("gpt-2", named | {f"{KEY}.add_bos_token": True})).add_bos
    assert read(tmp_path, byte_level("llama-bpe", named)).add_bos
    assert read(tmp_path, sentencepiece()).add_bos


def test_the_end_of_a_turn_also_ends_an_answer(tmp_path: Path) -> None:
    written = byte_level("gpt-2")
    text_end, turn_end = written.index("<|endoftext|>"), written.index("<|im_end|>")
    template = {"tokenizer.chat_template": "{{ messages }}<|im_end|>", f"{KEY}.eos_token_id": text_end}
    write_tokenizer(read(tmp_path, byte_level("gpt-2", template)), 128, tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == [text_end, turn_end]


@pytest.mark.parametrize("name", ["smollm", "llama-bpe-bos", "spm"])
def test_transformers_loads_the_tokenizer_that_was_rebuilt(name: str, tmp_path: Path) -> None:
    template = {"tokenizer.chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}"}
    written = vocabularies()[name]
    vocabulary = read(tmp_path, dataclasses.replace(written, extra={**(written.extra or {}), **template}))
    write_tokenizer(vocabulary, 128, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    loaded = load_tokenizer(tmp_path)
    assert type(loaded).__name__ == "PreTrainedTokenizerFast"
    for case in TINY[name]:
        assert loaded(case["text"])["input_ids"] == case["special"]
    assert loaded.eos_token_id == vocabulary.special["eos"]
    assert loaded.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"
    assert set(loaded("hi")) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize("name", ["smollm", "gpt-2", "llama-bpe-bos", "qwen2", "spm"])
def test_openvino_converts_the_tokenizer(name: str, tmp_path: Path) -> None:
    write_tokenizer(read(tmp_path, vocabularies()[name]), 128, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    compiled, _ = compile_tokenizer(load_tokenizer(tmp_path))
    # OpenVINO takes a word that is a token as it stands even where merges cannot reach it; these two texts have one.
    unreachable = {"spm": "<0x0A>", "llama-bpe-bos": ""}.get(name, " tapeout tapeout  tapeout")
    for case in TINY[name]:
        if case["text"] and case["text"] != unreachable:
            assert compiled([case["text"]])["input_ids"][0].tolist() == case["special"], case["text"]


def test_the_table_of_tensor_types_is_dequantizable() -> None:
    import numpy as np
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    for name, weights, size in TENSOR_TYPES.values():
        values = dequantize(np.zeros((2, size), np.uint8), GGMLQuantizationType[name])
        assert values.shape == (2, weights)
