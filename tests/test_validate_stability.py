"""Greedy stability: the figures by hand, and a hub against itself."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from export.hub import OnnxModel
from validate.golden_text import prompts
from validate.runtime import Generation
from validate.stability import (
    compare_answers,
    first_difference,
    golden_stability,
    measure_stability,
    repetition_rate,
    stability_prompts,
)


def test_there_are_about_forty_prompts_each_its_own() -> None:
    asked = stability_prompts()
    assert len(asked) == len(set(asked)) == 40
    assert asked[: len(prompts())] == prompts()


def test_where_answers_part() -> None:
    assert first_difference([1, 2, 3], [1, 2, 3]) is None
    assert first_difference([1, 2, 3], [1, 9, 3]) == 1
    assert first_difference([1, 2], [1, 2, 3]) == 2
    assert first_difference([], []) is None


def test_repetition_is_the_share_of_grams_seen_before() -> None:
    assert repetition_rate([[1, 2, 3, 4, 5, 6]]) == 0.0
    assert repetition_rate([[7] * 8]) == pytest.approx(4 / 5)
    assert repetition_rate([[1, 2, 3, 4, 1, 2, 3, 4]]) == pytest.approx(1 / 5)
    assert repetition_rate([[1, 2, 3, 4], [1, 2, 3, 4]]) == 0.0  # of one answer, not of all
    assert repetition_rate([[1, 2]]) == 0.0


def test_the_figures() -> None:
    references = [[1, 2, 3, 4, 5], [6, 7, 8], [9] * 8]
    answers = [[1, 2, 3, 4, 5], [6, 7, 1, 2, 3, 4, 5, 6], [8, 9]]
    stability = compare_answers(references, answers, limit=8)
    assert stability.first_divergence == (None, 2, 0)
    assert stability.divergence == 2.0
    assert stability.identical == pytest.approx(1 / 3)
    assert stability.length_ratio == pytest.approx(15 / 16)
    assert stability.end_rate == pytest.approx(2 / 3)
    assert stability.reference_end_rate == pytest.approx(2 / 3)
    assert stability.repetition == 0.0
    assert stability.reference_repetition == pytest.approx(4 / 7)


def test_a_package_is_held_against_the_stored_answers(tiny_hub: OnnxModel, tmp_path: Path) -> None:
    path = golden_stability(tiny_hub, 5, 6, tmp_path, lambda done, total: None)
    stored = json.loads(path.read_text())
    assert len(stored["answers"]) == 5
    assert all(len(row["answer"]) <= 6 for row in stored["answers"])
    by_prompt = {tuple(row["prompt"]): row["answer"] for row in stored["answers"]}

    class Repeating:
        """Gives the stored answers, the first token changed in one of them."""

        broken = False

        def generate(self, prompt: Sequence[int], new_tokens: int, stop: bool) -> Generation:
            answer = list(by_prompt[tuple(prompt)])
            assert new_tokens == 6
            assert stop
            if self.broken and tuple(prompt) == next(iter(by_prompt)):
                answer = [answer[0] + 1, *answer[1:]]
            return Generation(tuple(answer), 0.1, ())

    same = measure_stability(Repeating(), path, None, lambda done, total: None)
    assert same.identical == 1.0
    assert same.length_ratio == 1.0
    broken = Repeating()
    broken.broken = True
    other = measure_stability(broken, path, None, lambda done, total: None)
    assert other.identical == pytest.approx(0.8)
    assert other.first_divergence[0] == 0
    assert measure_stability(Repeating(), path, 2, lambda done, total: None).prompts == 2
