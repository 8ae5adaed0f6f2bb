import json
from pathlib import Path

import numpy as np
import pytest
import torch

from export.model import Model
from quantize.calibration import SELF, calibrate, prompts, read_texts
from quantize.calibration_plan import CalibrationPlan
from quantize.decoder import load_decoder
from quantize.sampling import draw, growing_cache, tokenize
from targets.errors import InputRefused
from tests.conftest import Models
from tests.tiny_calibration import PLAN, ignore, tiny_calibration
from tests.tiny_folder import load_tokenizer

ROOT = Path(__file__).resolve().parents[1]
EVALUATION = tuple((ROOT / "validate" / "texts").glob("*.jsonl"))

# Words in a row that two texts may not share. "what is the capital of france" is six.
PHRASE = 6


def phrases(text: str) -> set[tuple[str, ...]]:
    words = "".join(letter.lower() if letter.isalnum() else " " for letter in text).split()
    return {tuple(words[at : at + PHRASE]) for at in range(len(words) - PHRASE + 1)}


def evaluation_phrases() -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for path in EVALUATION:
        for line in path.read_text(encoding="utf-8").splitlines():
            for value in json.loads(line).values():
                found |= phrases(str(value))
    return found


def test_no_calibration_prompt_shares_a_phrase_with_the_evaluation_text() -> None:
    known = evaluation_phrases()
    assert len(known) > 5000
    shared = {prompt["id"]: phrases(prompt["text"]) & known for prompt in prompts()}
    assert not {name: found for name, found in shared.items() if found}


def test_a_shared_phrase_would_be_found() -> None:
    text = json.loads(EVALUATION[0].read_text(encoding="utf-8").splitlines()[0])
    assert phrases(text.get("text", text.get("user"))) & evaluation_phrases()


def test_prompts_are_of_both_kinds_and_named_once() -> None:
    rows = prompts()
    assert {row["kind"] for row in rows} == {"opening", "request"}
    assert {row["kind"] for row in rows[:8]} == {"opening", "request"}
    assert len({row["id"] for row in rows}) == len({row["text"] for row in rows}) == len(rows) >= 100


def test_the_model_writes_the_same_text_for_the_same_seed(tiny_model: Model, tmp_path: Path) -> None:
    first = tiny_calibration(tiny_model, tmp_path / "first")
    assert first == type(first)(first.folder, SELF, first.digest, PLAN.sequences, PLAN.tokens)
    tokens = first.load()
    assert tokens.shape == (PLAN.sequences, PLAN.tokens)
    assert 0 <= tokens.min() <= tokens.max() < tiny_model.vocab_size
    assert tiny_calibration(tiny_model, tmp_path / "again").digest == first.digest
    other = CalibrationPlan(PLAN.sequences, PLAN.tokens, seed=1)
    (tmp_path / "other").mkdir()
    assert calibrate(tiny_model, other, None, tmp_path / "other", ignore).digest != first.digest


def test_tokens_are_drawn_by_their_probability() -> None:
    logits = torch.log(torch.tensor([0.1, 0.0, 0.6, 0.3])).repeat(20000, 1)
    drawn = draw(logits, torch.Generator().manual_seed(1))
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.0, 0.6, 0.3]), atol=0.015, rtol=0)


@pytest.mark.parametrize("variant", ["llama", "qwen3"])
def test_the_cache_written_in_place_gives_the_same_logits(tiny_models: Models, variant: str) -> None:
    decoder = load_decoder(tiny_models[variant].folder)
    tokens = torch.arange(3 * 20).reshape(3, 20)
    with torch.no_grad():
        expected = decoder(tokens, use_cache=False).logits
        cache = growing_cache(32)
        steps = [decoder(part, past_key_values=cache, use_cache=True).logits for part in torch.split(tokens, 7, dim=1)]
    torch.testing.assert_close(torch.cat(steps, 1), expected, rtol=1e-4, atol=1e-4)


def test_every_sequence_begins_with_a_prompt_of_its_own(tiny_models: Models, tmp_path: Path) -> None:
    model = tiny_models["qwen2"]
    tokens = tiny_calibration(model, tmp_path / "calibration").load()
    known = tokenize(model, prompts())
    for row, prompt in zip(tokens, known, strict=False):
        assert row[: len(prompt)].tolist() == prompt[: PLAN.tokens]


def test_after_the_end_of_a_text_comes_the_next_prompt(tiny_model: Model, tmp_path: Path) -> None:
    """Any token of the tiny model's may end a text here, so ends are frequent."""
    ends = list(range(0, tiny_model.vocab_size, 2))
    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny_model.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    changed = type(tiny_model)(**{**vars(tiny_model), "folder": folder})
    (tmp_path / "calibration").mkdir()
    plan = CalibrationPlan(sequences=8, tokens=120)
    tokens = calibrate(changed, plan, None, tmp_path / "calibration", ignore).load()
    known = tokenize(changed, prompts())
    followed = 0
    for row, first in zip(tokens, known, strict=False):
        sampled = [at for at in range(len(first), plan.tokens - 8) if row[at] in set(ends)]
        if sampled:
            begin = sampled[0] + 1
            assert any(row[begin : begin + 8].tolist() == prompt[:8] for prompt in known[plan.sequences :])
            followed += 1
    assert followed >= 3


def test_the_users_text_is_cut_into_sequences(tiny_model: Model, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    texts = ["A first text about boats.", "A second one, about trains and their timetables."] * 5
    path.write_text("\n".join(json.dumps({"text": text, "id": 1}) for text in texts) + "\n\n")
    assert read_texts(path) == texts
    (tmp_path / "out").mkdir()
    calibration = calibrate(tiny_model, CalibrationPlan(3, 16), path, tmp_path / "out", ignore)
    assert (calibration.source, calibration.sequences, calibration.tokens) == ("jsonl", 3, 16)
    tokenizer = load_tokenizer(tiny_model.folder)
    ids = [token for text in texts for token in tokenizer(text, add_special_tokens=False).input_ids]
    np.testing.assert_array_equal(calibration.load().reshape(-1), ids[:48])


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ('{"text": "short"}', "less than one sequence of 48"),
        ("", "holds 0 tokens"),
        ('{"text": "a"}\n{"words": "b"}', "line 2 has no text"),
        ('{"text": "a"}\n["b"]', "line 2 is not a JSON object"),
        ("text", "line 1 is not sound JSON"),
    ],
)
def test_a_file_that_is_not_calibration_text_is_refused(
    tiny_model: Model, tmp_path: Path, content: str, what: str
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(content)
    with pytest.raises(InputRefused, match=what):
        calibrate(tiny_model, PLAN, path, tmp_path, ignore)
