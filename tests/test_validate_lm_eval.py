"""The three kinds of request of lm-evaluation-harness, on a hub, and the harness itself on a task of the user's."""

import dataclasses
import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compile.pinned_environment import PinnedEnvironment, ensure_environment, environments_folder
from export.hub import OnnxModel, open_hub
from targets.errors import DeviceMissing, UsageError
from validate.lm_eval_model import SessionScorer, bundle_model, cut, harness_model
from validate.vehicle_session import HubStepping, log_likelihoods

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def scorer(tiny_hub: OnnxModel) -> SessionScorer:
    session = HubStepping(open_hub(tiny_hub))
    made = SessionScorer(session, tiny_hub.folder, tiny_hub.facts.max_positions)
    made.ends = made.ends or [0]
    return made


def one_pass(hub: OnnxModel, ids: list[int], count: int) -> tuple[float, bool]:
    """Log-likelihood of the last `count` ids, and whether each is the most likely, in one pass."""
    logits = open_hub(hub).step(np.array([ids]))[0][-count - 1 : -1]
    return float(log_likelihoods(logits, ids[-count:]).sum()), logits.argmax(axis=1).tolist() == ids[-count:]


def test_a_continuation_is_scored_as_in_one_pass(tiny_hub: OnnxModel, scorer: SessionScorer) -> None:
    context, text = "The road is", " long and dry"
    ids = scorer.encode(context + text)
    count = len(ids) - len(scorer.encode(context))
    found = scorer.continuation(context, text)
    assert found[0] == pytest.approx(one_pass(tiny_hub, ids, count)[0], abs=1e-4)
    assert found[1] == one_pass(tiny_hub, ids, count)[1]
    assert scorer.continuation(context + " ", text.lstrip())[0] == pytest.approx(found[0], abs=1e-4)


def test_pieces_of_a_step_change_nothing(scorer: SessionScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scorer.continuation("The road is long and", " dry, and the sun is high")
    monkeypatch.setattr("validate.lm_eval_model.AT_ONCE", 3)
    pieces = scorer.continuation("The road is long and", " dry, and the sun is high")
    assert pieces[0] == pytest.approx(whole[0], abs=1e-4)


def test_what_greedy_decoding_writes_is_greedy(scorer: SessionScorer) -> None:
    ids = scorer.encode("Hello")
    session = scorer.session
    session.reset()
    token = int(session.step(np.array(ids))[-1].argmax())
    assert scorer.score(ids, [token])[1]
    assert not scorer.score(ids, [token + 1])[1]


def test_a_context_that_does_not_fit_loses_its_beginning(scorer: SessionScorer) -> None:
    ids = scorer.encode("word " * 200)
    assert len(ids) > scorer.max_positions
    kept = ids[-(scorer.max_positions - 2) :]
    assert scorer.score(ids, [5, 6])[0] == pytest.approx(scorer.score(kept, [5, 6])[0], abs=1e-4)


def test_a_whole_text_is_scored_token_by_token_in_pieces(scorer: SessionScorer) -> None:
    text = "A long way from home, the small dog waited."
    ids = scorer.encode(text)
    wanted = scorer.score([scorer.beginning()], ids)[0]
    assert scorer.whole_text(text) == pytest.approx(wanted, abs=1e-4)
    scorer.max_positions = 4
    pieces = scorer.whole_text(text)
    assert math.isfinite(pieces)
    assert pieces != pytest.approx(wanted, abs=1e-4)


def test_generation_ends_at_a_stop_text_or_the_limit(scorer: SessionScorer) -> None:
    text = scorer.generate("Hello", {"until": [], "max_gen_toks": 6})
    assert len(scorer.encode(text)) >= 1
    stop = text[2:4]
    assert scorer.generate("Hello", {"until": [stop], "max_gen_toks": 6}) == text[: text.index(stop)]
    assert cut("abcab", ["ca", "b"]) == "a"
    assert cut("abc", []) == "abc"


def test_a_text_without_context_needs_a_token_in_front(scorer: SessionScorer) -> None:
    scorer.ends = []
    with pytest.raises(UsageError, match="token in front"):
        scorer.whole_text("a")


def test_end_tokens_are_read_from_the_package(tiny_hub: OnnxModel, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((tiny_hub.folder / "tokenizer.json").read_bytes())
    session = HubStepping(open_hub(tiny_hub))
    for stored, wanted in (([3, 4], [3, 4]), (5, [5]), (None, [])):
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": stored}))
        assert SessionScorer(session, tmp_path, 64).ends == wanted


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_without_the_harness_the_error_says_what_to_install(tiny_hub: OnnxModel) -> None:
    session = HubStepping(open_hub(tiny_hub))
    with pytest.raises(DeviceMissing, match="not installed"):
        harness_model(session, tiny_hub.folder, 64)


TASK = """
task: local_roads
dataset_path: json
dataset_kwargs: {{data_files: {{test: {questions}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: " "
metric_list: [{{metric: acc}}]
"""
QUESTIONS: tuple[dict[str, Any], ...] = (
    {"question": "The road is", "choices": ["long", "dry and high", "a"], "answer": 0},
    {"question": "A dog", "choices": ["waited", "is the sun"], "answer": 1},
    {"question": "Hello", "choices": ["there", "long long"], "answer": 0},
)


@pytest.mark.deep
def test_the_harness_runs_a_local_task_offline(tiny_hub: OnnxModel, scorer: SessionScorer, tmp_path: Path) -> None:
    """In an environment of its own, made once from exact pins: it brings packages that nothing else here needs."""
    environment = PinnedEnvironment("lm-eval", ROOT / "tests" / "data" / "lm_eval_requirements.txt")
    python = ensure_environment(environment, environments_folder())
    added = python.parents[1] / "lib" / "python3.11" / "site-packages"
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    (tmp_path / "local_roads.yaml").write_text(TASK.format(questions=questions))
    (tmp_path / "facts.json").write_text(json.dumps(dataclasses.asdict(tiny_hub.facts)))
    asked = [str(ROOT / "tests" / "lm_eval_child.py"), str(tiny_hub.folder), str(tiny_hub.weights), str(tmp_path)]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    finished = subprocess.run(
        [sys.executable, *asked],
        env={**offline, "PYTHONPATH": f"{ROOT}{os.pathsep}{added}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout.splitlines()[-1])
    scores = [[scorer.continuation(row["question"], f" {text}")[0] for text in row["choices"]] for row in QUESTIONS]
    for ours, theirs in zip(scores, found["scores"], strict=True):
        assert theirs == pytest.approx(ours, abs=1e-3)
    right = [int(np.argmax(row)) == question["answer"] for row, question in zip(scores, QUESTIONS, strict=True)]
    assert found["accuracy"] == pytest.approx(sum(right) / len(right))
    assert found["generated"] == scorer.generate("Hello", {"until": [], "max_gen_toks": 4})


def test_a_package_of_a_bundle_is_named_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"packages": {"packages/cpu-null": {"backend": "null"}}}))
    with pytest.raises(UsageError, match="unknown package 'packages/cpu-nul'"):
        bundle_model(tmp_path, "packages/cpu-nul")
    with pytest.raises(UsageError, match="without a runtime"):
        bundle_model(tmp_path, "packages/cpu-null")
