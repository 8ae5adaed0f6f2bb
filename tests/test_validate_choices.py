"""Multiple choice on the user's own file: what is read, what is refused, how it is scored."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from export.hub import OnnxModel, open_hub
from targets.errors import InputRefused
from validate.choices import (
    Item,
    compare_choices,
    golden_choices,
    measure_choices,
    read_items,
    score_items,
    tokenize,
)
from validate.vehicle_session import HubStepping, log_likelihoods

QUESTIONS: list[dict[str, Any]] = [
    {"question": "The sky is", "choices": ["blue", "seven", "loud"], "answer": 0},
    {"question": "Two and two is", "choices": ["four", "a very green tree"], "answer": "four"},
    {"question": "Paris lies in\n", "choices": ["France", "Francs"], "answer": 0},
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in QUESTIONS) + "\n\n")
    return path


def test_questions_are_read(file: Path) -> None:
    items = read_items(file)
    assert [item.answer for item in items] == [0, 0, 0]
    assert items[1] == Item("Two and two is", ("four", "a very green tree"), 0)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "no JSON"),
        ("[]", "lacks"),
        ('{"question": "q", "choices": ["a", "b"]}', "lacks"),
        ('{"question": "q", "choices": ["a"], "answer": 0}', "two or more"),
        ('{"question": "q", "choices": ["a", "a"], "answer": 0}', "different"),
        ('{"question": "q", "choices": ["a", ""], "answer": 0}', "different"),
        ('{"question": 1, "choices": ["a", "b"], "answer": 0}', "texts"),
        ('{"question": "q", "choices": ["a", 2], "answer": 0}', "texts"),
        ('{"question": "q", "choices": ["a", "b"], "answer": 2}', "none of the 2"),
        ('{"question": "q", "choices": ["a", "b"], "answer": -1}', "none of the 2"),
        ('{"question": "q", "choices": ["a", "b"], "answer": true}', "none of the 2"),
        ('{"question": "q", "choices": ["a", "b"], "answer": "c"}', "none of the 2"),
    ],
)
def test_a_line_that_is_no_question_is_refused_with_its_number(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(QUESTIONS[0]) + "\n" + line + "\n")
    with pytest.raises(InputRefused, match=reason) as refused:
        read_items(path)
    assert "line 2" in refused.value.what


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n")
    with pytest.raises(InputRefused, match="0 questions"):
        read_items(path)


def test_a_choice_is_read_behind_its_question(tiny_hub: OnnxModel) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_hub.folder / "tokenizer.json"))
    for row in QUESTIONS:
        item = Item(str(row["question"]), tuple(row["choices"]), 0)
        prompt, texts = tokenize(tokenizer, item)
        joined = "" if item.question.endswith("\n") else " "
        for text, choice in zip(texts, item.choices, strict=True):
            assert tokenizer.decode([*prompt, *text]) == f"{item.question}{joined}{choice}"
        assert item.question.startswith(tokenizer.decode(prompt))


def test_scores_are_those_of_one_pass_over_everything(tiny_hub: OnnxModel, file: Path) -> None:
    items = read_items(file)
    session = HubStepping(open_hub(tiny_hub))
    scores = score_items(session, tiny_hub.folder, items, lambda done, total: None)
    tokenizer = Tokenizer.from_file(str(tiny_hub.folder / "tokenizer.json"))
    for item, row in zip(items, scores, strict=True):
        prompt, texts = tokenize(tokenizer, item)
        for text, score in zip(texts, row, strict=True):
            logits = open_hub(tiny_hub).step(np.array([[*prompt, *text]]))[0]
            assert score == pytest.approx(log_likelihoods(logits[len(prompt) - 1 : -1], text).sum(), abs=1e-4)


def test_a_question_without_a_prompt_is_refused(tiny_hub: OnnxModel) -> None:
    session = HubStepping(open_hub(tiny_hub))
    with pytest.raises(InputRefused, match="question 1"):
        score_items(session, tiny_hub.folder, [Item("", ("a", "b"), 0)], lambda done, total: None)


def test_the_float_model_agrees_with_its_own_reference(tiny_hub: OnnxModel, file: Path, tmp_path: Path) -> None:
    stored = golden_choices(tiny_hub, file, tmp_path, lambda done, total: None)
    session = HubStepping(open_hub(tiny_hub))
    choices = measure_choices(session, stored, tiny_hub.folder, None, 0.03, lambda done, total: None)
    assert choices.items == 3
    assert choices.agreement == 1.0
    assert choices.paired.only_reference == choices.paired.only_candidate == 0
    assert choices.paired.needed > 3
    assert measure_choices(session, stored, tiny_hub.folder, 1, 0.03, lambda done, total: None).items == 1


def test_length_decides_only_where_it_is_taken_into_account() -> None:
    items = [Item("q", ("no", "certainly not"), 1)]
    choices = compare_choices(items, [[-3.0, -5.0]], [[-3.0, -50.0]], 0.03)
    assert choices.paired.reference_accuracy == 1.0  # -5/13 above -3/2
    assert choices.paired_sum.reference_accuracy == 0.0
    assert choices.paired.candidate_accuracy == 0.0
    assert choices.agreement == 0.0
