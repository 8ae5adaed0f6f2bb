import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.candidates import Candidate, undominated
from quantize.search import Explanation, Goal, Outcome, explain, front, next_candidate, shortfall, winner
from quantize.sensitivity import Sensitivity, WeightCost
from targets.gates import Gates

# Six recipes of two methods; the real KL is a third less than what is predicted.
CANDIDATES = tuple(
    Candidate(f"w4-asym-g64{keep}+gptq{tuned}", size, kl)
    for size, keep, tuned, kl in (
        (80, "", "", 0.30),
        (81, "", "+distill", 0.25),
        (85, "+keep10", "+distill", 0.20),
        (90, "+keep20", "+distill", 0.14),
        (95, "+keep30", "+distill", 0.09),
        (140, "+keep50", "+distill", 0.05),
    )
)


def outcome(one: Candidate, kl: float, goal: Goal, seconds: float = 100.0) -> Outcome:
    return Outcome(one.recipe, one.weight_bytes, kl, kl <= goal.kl_max, 5.0, seconds)


def search(candidates: tuple[Candidate, ...], goal: Goal, share: float) -> list[Outcome]:
    """Try what the search says until it says no more; every KL is `share` of what was predicted."""
    tried: list[Outcome] = []
    while (one := next_candidate(candidates, tried, goal)) is not None:
        assert one.recipe not in {other.recipe for other in tried}
        tried.append(outcome(one, one.predicted_kl * share, goal))
    return tried


def test_the_smallest_that_passes_wins_in_few_tries() -> None:
    goal = Goal(0.10)
    tried = search(CANDIDATES, goal, 2 / 3)
    best = winner(tried)
    assert best is not None
    assert best.weight_bytes == 90
    assert [one.weight_bytes for one in tried] == [95, 90]


def test_predictions_that_were_too_good_lead_upward() -> None:
    tried = search(CANDIDATES, Goal(0.10), 1.5)
    assert [one.weight_bytes for one in tried] == [95, 140]
    best = winner(tried)
    assert best is not None
    assert best.weight_bytes == 140


def test_when_nothing_can_pass_the_nearest_is_tried_and_the_failure_explained() -> None:
    goal = Goal(0.10, at_most=3)
    tried = search(CANDIDATES, goal, 4.0)
    assert winner(tried) is None
    assert tried[1].weight_bytes == 140
    costs = tuple(WeightCost(f"w{n}", n, "mlp.down_proj", (8, 8), n / 100) for n in range(8))
    sensitivity = Sensitivity(Path(), "w4-asym-g64", costs, (0.5,))
    larger = (*CANDIDATES, Candidate("w8-asym", 200, 0.001))
    found = explain(larger, tried, sensitivity, goal, worst=2)
    # keep50 is the nearest and has the four that cost most in 8 bits; w8-asym is expected at 4 times its prediction.
    assert found == Explanation(tried[1], (costs[3], costs[2]), larger[-1], found.expected_kl)
    assert found.expected_kl == pytest.approx(0.004)
    assert explain(CANDIDATES, tried, sensitivity, goal).would_pass is None


def test_it_resumes_where_it_was() -> None:
    goal = Goal(0.10)
    tried = search(CANDIDATES, goal, 2 / 3)
    for known in range(len(tried)):
        following = next_candidate(CANDIDATES, tried[:known], goal)
        assert following is not None
        assert following.recipe == tried[known].recipe
        assert next_candidate(CANDIDATES[::-1], reversed(tried[:known]), goal) == following


def gates(kl: float = 0.10, top1: float = 0.85, ratio: float = 1.05) -> Gates:
    return Gates(kl_mean_max=kl, top1_min=top1, perplexity_ratio_max=ratio, runtime_kl_gap_max=0.1)


def test_the_gate_that_is_farthest_off_says_how_much_less_kl_it_takes() -> None:
    assert shortfall(0.2, 0.95, 1.01, gates()) == pytest.approx(2.0)
    assert shortfall(0.05, 0.95, 1.10, gates()) == pytest.approx(2.0)
    assert shortfall(0.05, 0.70, 1.01, gates()) == pytest.approx(4.0)
    assert shortfall(0.05, 0.95, 0.99, gates()) == pytest.approx(0.5)
    assert shortfall(0.05, 0.99, 1.01, gates(top1=1.0)) == math.inf
    assert shortfall(0.0, 1.0, 1.0, gates(top1=1.0, ratio=1.0)) == 0.0


@pytest.mark.parametrize("told", [True, False])
def test_a_recipe_that_kept_to_the_gate_on_kl_and_failed_another_leads_upward(told: bool) -> None:
    """Perplexity is what fails here: it wants a KL of 0.05 where the gate on KL is content with 0.10."""
    goal = Goal(0.10)
    tried: list[Outcome] = []
    while (one := next_candidate(CANDIDATES, tried, goal)) is not None:
        kl = one.predicted_kl
        tried.append(Outcome(one.recipe, one.weight_bytes, kl, kl <= 0.05, 5.0, 1.0, kl / 0.05 if told else None))
    best = winner(tried)
    assert best is not None
    assert best.weight_bytes == 140
    assert [one.weight_bytes for one in tried] == [95, 140]


def test_a_recipe_that_could_not_be_built_says_nothing_of_the_others() -> None:
    broken = Outcome(CANDIDATES[4].recipe, 95, math.inf, passed=False, tpot_ms=None, seconds=0.0)
    following = next_candidate(CANDIDATES, [broken], Goal(0.10))
    assert following == CANDIDATES[5]


def test_what_saves_next_to_nothing_is_not_tried() -> None:
    near = (Candidate("w4-sym-cw+gptq", 990, 0.09), Candidate("w4-sym-cw+keep5+gptq", 1000, 0.08))
    passed = [Outcome(near[1].recipe, 1000, 0.05, True, 5.0, 1.0)]
    assert next_candidate(near, passed, Goal(0.10)) is None
    assert next_candidate(near, passed, Goal(0.10, worthwhile=0.005)) == near[0]


def test_the_time_budget_ends_it_but_something_is_always_tried() -> None:
    goal = Goal(0.10, time_budget_s=150)
    assert [one.weight_bytes for one in search(CANDIDATES, goal, 2 / 3)] == [95]
    assert len(search(CANDIDATES, dataclasses.replace(goal, time_budget_s=0), 2 / 3)) == 1
    assert next_candidate((), [], goal) is None


def test_the_front_counts_bytes_kl_and_latency() -> None:
    small, large = Outcome("a", 80, 0.2, False, 5.0, 1.0), Outcome("b", 90, 0.1, True, 6.0, 1.0)
    worse, quick = Outcome("c", 91, 0.11, False, 6.5, 1.0), Outcome("d", 92, 0.12, True, 4.0, 1.0)
    unknown = Outcome("e", 93, 0.13, False, None, 1.0)
    assert front([worse, large, quick, small, unknown]) == (small, large, quick)
    assert winner([large, quick]) == large
    assert winner([small, worse]) is None


@given(
    st.lists(st.tuples(st.integers(1, 500), st.floats(0.001, 2)), min_size=1, max_size=12),
    st.floats(0.2, 5),
    st.floats(0.005, 1),
)
def test_it_ends_and_with_one_true_ratio_finds_the_smallest_there_is(
    points: list[tuple[int, float]], share: float, bound: float
) -> None:
    listed = [Candidate(f"w4-sym-cw+keep{n + 1}+gptq", size, kl) for n, (size, kl) in enumerate(points)]
    candidates = undominated(listed)
    goal = Goal(bound, at_most=100, worthwhile=0.0)
    tried = search(candidates, goal, share)
    passing = [one for one in candidates if one.predicted_kl * share <= bound * (1 - 1e-9)]
    best = winner(tried)
    if passing:
        assert best is not None
        assert best.weight_bytes <= min(one.weight_bytes for one in passing)
    assert len(tried) <= len(candidates)
    assert not math.isnan(sum(one.kl for one in tried))


def test_a_weight_that_the_nearest_keeps_is_not_to_blame() -> None:
    """`keep50` keeps the two of four equal weights that cost most: of the others the worst is named."""
    costs = tuple(WeightCost(f"w{n}", n, "mlp.down_proj", (8, 8), (n + 1) / 100) for n in range(4))
    sensitivity = Sensitivity(Path(), "w4-asym-g64", costs, (0.5,))
    nearest = Outcome("w4-asym-g64+keep50+gptq", 140, 0.2, False, None, 1.0)
    found = explain((), [nearest], sensitivity, Goal(0.1))
    assert [cost.name for cost in found.guilty] == ["w1", "w0"]
    assert (found.would_pass, found.expected_kl) == (None, None)


def test_what_would_pass_comes_with_the_kl_that_is_expected_of_it() -> None:
    sensitivity = Sensitivity(Path(), "w4-asym-g64", (), ())
    tried = [outcome(CANDIDATES[3], 2 * CANDIDATES[3].predicted_kl, Goal(0.1))]
    found = explain(CANDIDATES, tried, sensitivity, Goal(0.1))
    assert found.would_pass == CANDIDATES[5]
    assert found.expected_kl == pytest.approx(2 * CANDIDATES[5].predicted_kl)


def test_time_that_is_gone_before_the_first_try_counts() -> None:
    first = [outcome(CANDIDATES[0], 1.0, Goal(0.1), seconds=100.0)]
    assert next_candidate(CANDIDATES, first, Goal(0.1, time_budget_s=250.0)) is not None
    assert next_candidate(CANDIDATES, first, Goal(0.1, time_budget_s=250.0, spent_s=60.0)) is None
    assert next_candidate(CANDIDATES, [], Goal(0.1, time_budget_s=250.0, spent_s=900.0)) is not None
