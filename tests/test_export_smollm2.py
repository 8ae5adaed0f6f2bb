"""The real SmolLM2 from the catalog: its facts, its tokenizer, its weights and its answer."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from export.catalog import CATALOG, fetch
from export.folder_check import check_folder
from export.model import Model, import_model
from export.source import CatalogName
from tests.test_export_tokenizer import differences
from tests.tiny_folder import compile_tokenizer, load_model, load_tokenizer

pytestmark = pytest.mark.truth

DOWNLOADS = Path(__file__).resolve().parents[1] / "artifacts" / ".downloads"


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Model:
    fetch(CATALOG["smollm2-135m"], DOWNLOADS)
    return import_model(CatalogName("smollm2-135m"), tmp_path_factory.mktemp("smollm2"), DOWNLOADS)


def test_smollm2_has_the_facts_of_its_card(smollm2: Model) -> None:
    expected = {"vocab_size": 49152, "hidden_size": 576, "n_layers": 30, "n_heads": 9, "n_kv_heads": 3, "head_dim": 64}
    expected |= {"parameters": 134_515_008, "max_positions": 8192}
    assert {key: getattr(smollm2, key) for key in expected} == expected
    assert (smollm2.licence, smollm2.quantized_source, smollm2.tied_embeddings) == ("Apache-2.0", "Q4_1", True)
    check_folder(smollm2.folder)


def test_smollm2_tokenizes_as_llama_cpp_does(smollm2: Model) -> None:
    frozen = json.loads((Path(__file__).parent / "data" / "smollm2_token_ids.json").read_text())
    loaded = load_tokenizer(smollm2.folder)
    assert (loaded.eos_token, loaded("Hi")["input_ids"][0] != loaded.bos_token_id) == ("<|im_end|>", True)
    for case in frozen["cases"]:
        assert loaded(case["text"])["input_ids"] == case["special"]
        assert loaded.decode(case["special"]) == case["text"]
    assert differences(loaded.backend_tokenizer, frozen["cases"]) == []


def test_smollm2_tokenizes_the_same_in_openvino(smollm2: Model) -> None:
    frozen = json.loads((Path(__file__).parent / "data" / "smollm2_token_ids.json").read_text())
    loaded = load_tokenizer(smollm2.folder)
    forward, back = compile_tokenizer(loaded)
    for case in frozen["cases"]:
        if case["text"]:
            assert forward([case["text"]])["input_ids"][0].tolist() == case["special"]
            text = loaded.decode(case["special"], skip_special_tokens=True)
            assert back(np.array([case["special"]]))["string_output"][0] == text


def test_smollm2_answers_and_equals_the_dequantization_of_transformers(smollm2: Model) -> None:
    import torch

    loaded = load_tokenizer(smollm2.folder)
    gguf = Path(CATALOG["smollm2-135m"].member).name
    ours, theirs = load_model(smollm2.folder), load_model(DOWNLOADS, gguf_file=gguf)
    stored = load_file(smollm2.folder / "model.safetensors")
    assert all(np.array_equal(stored[key], theirs.state_dict()[key].numpy()) for key in stored)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = loaded.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert torch.equal(ours(**prompt).logits, theirs(**prompt).logits)
    answer = ours.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in loaded.decode(answer)
    assert int(answer[-1]) == loaded.eos_token_id
