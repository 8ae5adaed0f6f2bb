"""Scoring of the in-vehicle suite: stepping back changes nothing, a package is told from another, files survive."""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from compile.package import Package
from export.hub import OnnxModel, open_hub
from validate.plans import ExperiencePlan
from validate.runtime import WEIGHTS, find_runtime
from validate.vehicle import Request, call_text, options, requests, system_prompt
from validate.vehicle_calls import compare_calls, golden_calls, measure_calls
from validate.vehicle_golden import golden_experience
from validate.vehicle_ranking import (
    NEVER,
    Question,
    VehicleRanking,
    compare_rankings,
    golden_ranking,
    measure_ranking,
    prompt_of,
    score_options,
)
from validate.vehicle_session import Branches, HubStepping, as_ids, common_beginning, log_likelihoods

Packages = dict[tuple[str, str, str], Package]

SHARED = tuple(range(10, 22))
PROMPT = (30, 31, 32)
OPTIONS = ((40, 41, 42, 43), (40, 41, 50), (40, 41, 60, 61, 62))


def ignore(done: int, total: int) -> None:
    """No progress bar."""


def straight(hub: OnnxModel, ids: Sequence[int], option: Sequence[int]) -> float:
    """The log-likelihood of an option in one pass over everything."""
    logits = open_hub(hub).step(np.array([[*ids, *option]]))[0]
    return float(log_likelihoods(logits[len(ids) - 1 : -1], option).sum())


@pytest.fixture
def hub_session(tiny_hub: OnnxModel) -> HubStepping:
    return HubStepping(open_hub(tiny_hub))


def test_options_score_what_one_pass_over_everything_gives(tiny_hub: OnnxModel, hub_session: HubStepping) -> None:
    branches = Branches(hub_session, NEVER)
    wanted = [straight(tiny_hub, (*SHARED, *PROMPT), option) for option in OPTIONS]
    for _ in range(3):  # again after stepping back
        branches.start(SHARED)
        assert score_options(branches, PROMPT, OPTIONS) == pytest.approx(wanted, abs=1e-4)
    branches.restart()
    assert score_options(branches, [*SHARED, *PROMPT], OPTIONS) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_package_that_steps_back_gives_what_it_gives_at_once(
    tiny_packages: Packages, tiny_hub: OnnxModel, backend: str
) -> None:
    package = tiny_packages["llama", "w8-asym", backend]
    runtime = find_runtime(backend)
    assert runtime is not None
    session = runtime.session(package.folder, package.settings, WEIGHTS)
    session.reset()
    logits = session.step(as_ids((*SHARED, *PROMPT, *OPTIONS[2])))[len(SHARED) + len(PROMPT) - 1 : -1]
    wanted = float(log_likelihoods(logits, OPTIONS[2]).sum())
    for refresh in (NEVER, 2):
        branches = Branches(session, refresh)
        for _ in range(3):
            branches.start(SHARED)
            scores = score_options(branches, PROMPT, OPTIONS)
            assert scores[2] == pytest.approx(wanted, abs=2e-3)
    assert scores[0] == pytest.approx(straight(tiny_hub, (*SHARED, *PROMPT), OPTIONS[0]), abs=0.5)


def test_a_session_that_cannot_step_back_reads_again(hub_session: HubStepping) -> None:
    class OneWay:
        """A session without `rewind`."""

        reads = 0

        def reset(self) -> None:
            hub_session.reset()

        def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
            self.reads += len(tokens)
            return hub_session.step(tokens)

    one_way = OneWay()
    branches = Branches(one_way, NEVER)
    branches.start(SHARED)
    slow = score_options(branches, PROMPT, OPTIONS)
    assert one_way.reads > 3 * len(SHARED)
    branches = Branches(hub_session, NEVER)
    branches.start(SHARED)
    assert slow == pytest.approx(score_options(branches, PROMPT, OPTIONS), abs=1e-4)


def question(index: int, scores: Sequence[float], category: str = "media", language: str = "en") -> Question:
    return Question(str(index), category, language, (1,), ((1, 2), (1, 3), (1, 4)), (10, 20, 10), tuple(scores))


def rank(float_scores: list[list[float]], scores: list[list[float]]) -> VehicleRanking:
    return compare_rankings([question(index, row) for index, row in enumerate(float_scores)], scores, 0.03)


def test_the_choice_is_by_likelihood_per_byte() -> None:
    ranking = rank([[-10.0, -12.0, -30.0]] * 2, [[-10.0, -12.0, -30.0], [-5.0, -12.0, -30.0]])
    # -12 over 20 bytes beats -10 over 10, although -10 is more likely.
    assert ranking.paired.reference_accuracy == 0.0
    assert ranking.paired.candidate_accuracy == 0.5
    assert ranking.paired_sum.candidate_accuracy == 1.0
    assert ranking.agreement == 0.5
    assert ranking.score_gap == pytest.approx(5 / 6)


def test_a_worse_package_is_not_non_inferior() -> None:
    right, wrong = [-1.0, -40.0, -20.0], [-40.0, -1.0, -20.0]
    same = rank([right] * 200, [right] * 200)
    assert same.agreement == 1.0
    assert same.paired.non_inferior
    worse = rank([right] * 200, [right] * 180 + [wrong] * 20)
    assert worse.agreement == 0.9
    assert not worse.paired.non_inferior
    assert worse.by_category == {"media": (200, 200, 180)}
    assert worse.by_language == {"en": (200, 200, 180)}


def test_results_are_plain_data() -> None:
    ranking = rank([[-1.0, -40.0, -20.0]] * 5, [[-1.0, -40.0, -20.0]] * 5)
    assert json.loads(json.dumps(dataclasses.asdict(ranking)))["paired"]["items"] == 5


def test_a_context_too_short_for_the_suite_gives_no_reference(tiny_hub: OnnxModel, tmp_path: Path) -> None:
    assert golden_ranking(tiny_hub, None, tmp_path, ignore) is None
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_suite(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Request]]:
    """The suite with a prompt that fits a tiny model."""
    monkeypatch.setattr("validate.vehicle_ranking.system_prompt", lambda: "Car:")
    short = [request for request in requests() if len(request.call) < 48 and len(request.user) < 24][:6]
    assert len(short) == 6
    monkeypatch.setattr("validate.vehicle_ranking.requests", lambda: tuple(short))
    monkeypatch.setattr("validate.vehicle_ranking.options", lambda request: tuple(each.call for each in short[:3]))
    return lambda: short


def test_the_float_model_agrees_with_its_own_reference(
    tiny_hub: OnnxModel, small_suite: Callable[[], list[Request]], tmp_path: Path
) -> None:
    path = golden_ranking(tiny_hub, None, tmp_path, ignore)
    assert path is not None
    session = HubStepping(open_hub(tiny_hub))
    ranking = measure_ranking(session, path, None, 0.03, ignore)
    assert ranking.requests == ranking.of == len(small_suite())
    assert ranking.agreement == 1.0
    assert ranking.score_gap < 1e-3
    fewer = measure_ranking(session, path, 2, 0.03, ignore)
    assert (fewer.requests, fewer.of) == (2, len(small_suite()))


def test_written_calls_are_calls_and_compare(
    tiny_hub: OnnxModel, small_suite: Callable[[], list[Request]], tmp_path: Path
) -> None:
    path = golden_ranking(tiny_hub, None, tmp_path, ignore)
    assert path is not None
    stored = golden_calls(tiny_hub, path, 2, tmp_path, ignore)
    written = json.loads(stored.read_text())
    assert len(written) == 2
    assert all(set(json.loads(call)) == {"name", "arguments"} for call in written.values())
    session = HubStepping(open_hub(tiny_hub))
    calls = measure_calls(session, tmp_path, tiny_hub.folder, None, 0.03, ignore)
    assert calls.agreement == calls.tool_agreement == 1.0
    assert calls.requests == 2
    assert calls.examples == ()


def test_calls_are_compared_to_the_letter_and_by_tool() -> None:
    fans = [request for request in requests() if '"set_fan"' in request.call][:4]
    right = {request.id: request.call for request in fans}
    wrong_level = right | {fans[0].id: options(fans[0])[1]}
    wrong_level |= {fans[1].id: call_text({"name": "end_route", "arguments": {}})}
    calls = compare_calls(right, wrong_level, 0.03)
    assert calls.agreement == 0.5
    assert calls.tool_agreement == 0.75
    assert calls.paired.candidate_accuracy == 0.5
    assert calls.paired_tool.candidate_accuracy == 0.75
    assert calls.paired.reference_accuracy == 1.0
    assert [example[0] for example in calls.examples] == [fans[0].user, fans[1].user]


def test_log_likelihoods_are_those_of_a_softmax() -> None:
    logits = np.array([[1.0, 2.0, 3.0], [1000.0, 0.0, 0.0]], np.float32)
    found = log_likelihoods(logits, [2, 0])
    assert found[0] == pytest.approx(-math.log(1 + math.exp(-1) + math.exp(-2)))
    assert found[1] == pytest.approx(0.0)


def test_what_sequences_begin_with() -> None:
    assert common_beginning([[1, 2, 3], [1, 2], [1, 2, 4]]) == [1, 2]
    assert common_beginning([[1], [2]]) == []
    assert common_beginning([[5, 6]]) == [5, 6]


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}", "<system>SYSTEM<user>USER"),
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}<{{ messages[0].content }}>",
            None,
        ),
        ("{{ messages[0].content }}", None),
        ("nothing of it", None),
    ],
)
def test_the_tools_reach_the_prompt_whatever_the_template(tmp_path: Path, template: str, wanted: str | None) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text(template)
    request = requests()[0]
    prompt = prompt_of(tmp_path, request)
    assert system_prompt() in prompt
    assert request.user in prompt
    assert prompt.index(system_prompt()) < prompt.rindex(request.user)
    if wanted:
        assert prompt == wanted.replace("SYSTEM", system_prompt()).replace("USER", request.user)


def test_one_golden_step_writes_all_references(
    tiny_hub: OnnxModel, small_suite: Callable[[], list[Request]], tmp_path: Path
) -> None:
    assert len(small_suite()) == 6
    questions = tmp_path / "mine.jsonl"
    questions.write_text('{"question": "The sky is", "choices": ["blue", "loud"], "answer": 0}\n')
    out = tmp_path / "golden"
    out.mkdir()
    seen: list[int] = []
    plan = ExperiencePlan(requests=3, calls=2, prompts=2, answer_tokens=3)
    written = golden_experience(tiny_hub, plan, questions, out, lambda done, total: seen.append(done * 100 // total))
    assert [path.name for path in written] == ["vehicle.json", "vehicle_calls.json", "stability.json", "choices.json"]
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in written)
    assert seen[-1] == 100
    assert seen == sorted(seen)
    without = golden_experience(tiny_hub, plan, None, out, lambda done, total: None)
    assert [path.name for path in without] == ["vehicle.json", "vehicle_calls.json", "stability.json"]
