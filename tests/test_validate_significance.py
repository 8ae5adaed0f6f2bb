"""Tests of tests: intervals cover as often as they say, and nothing is called a difference that is none."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from validate.measurement import RESAMPLES
from validate.resampling import block_intervals, mean_difference, mean_interval, median_interval, median_ratio
from validate.significance import Outcome, decide, holm, least_p_value, mann_whitney

SAMPLES = st.lists(st.floats(0.5, 100), min_size=2, max_size=12)


def test_a_median_interval_covers_as_it_says() -> None:
    rng = np.random.default_rng(3)
    inside = [
        low <= 1.0 <= high for low, high in (median_interval(rng.lognormal(size=25).tolist()) for _ in range(120))
    ]
    assert 0.89 <= np.mean(inside) <= 0.99


def test_a_ratio_interval_covers_as_it_says() -> None:
    rng = np.random.default_rng(4)
    found = [
        median_ratio((1.2 * rng.lognormal(0, 0.1, 20)).tolist(), rng.lognormal(0, 0.1, 20).tolist()) for _ in range(100)
    ]
    assert 0.88 <= np.mean([each.low <= 1.2 <= each.high for each in found]) <= 0.99
    assert np.median([each.value for each in found]) == pytest.approx(1.2, rel=0.02)


def test_dependent_samples_need_blocks() -> None:
    """Requests that differ by more than their tokens do: single tokens resampled give an interval far too narrow."""
    rng = np.random.default_rng(5)
    blocked, single = [], []
    for _ in range(80):
        requests = [10 + rng.normal() + 0.1 * rng.normal(size=8) for _ in range(25)]
        ((low, high),) = block_intervals([list(request) for request in requests], [0.5], 600).ends
        blocked.append(low <= 10 <= high)
        ((low, high),) = block_intervals([[sample] for request in requests for sample in request], [0.5], 600).ends
        single.append(low <= 10 <= high)
    assert np.mean(blocked) >= 0.8  # a little under 95 %: 25 requests are few
    assert np.mean(single) <= 0.6


def test_many_samples_get_fewer_resamples_and_say_so() -> None:
    assert block_intervals([[1.0, 2.0] * 50] * 20, [0.5]).resamples == 5000
    assert block_intervals([[1.0, 2.0] * 50] * 2, [0.5]).resamples == RESAMPLES


@settings(max_examples=25, deadline=None)
@given(SAMPLES, st.floats(0.5, 2))
def test_a_ratio_scales_with_its_samples(samples: list[float], factor: float) -> None:
    same, scaled = median_ratio(samples, samples), median_ratio([factor * sample for sample in samples], samples)
    assert same.value == 1
    assert (scaled.low, scaled.value, scaled.high) == pytest.approx(
        (factor * same.low, factor * same.value, factor * same.high)
    )


def test_a_mean_interval_covers_and_heeds_weights() -> None:
    rng = np.random.default_rng(6)
    found = [mean_interval(rng.normal(0.3, 1, 30).tolist()) for _ in range(120)]
    assert 0.88 <= np.mean([low <= 0.3 <= high for low, high in found]) <= 0.99
    heavy = mean_difference([0.0, 1.0] * 9, [9.0, 1.0] * 9)
    assert heavy.value == pytest.approx(0.1)
    assert heavy.low <= 0.1 <= heavy.high < 0.5
    assert mean_difference([0.0] * 5, [1.0] * 5).p_value == 1.0
    assert mean_difference([0.1, 0.2, 0.15, 0.1], [1.0] * 4).p_value == pytest.approx(2e-4)


def exhaustive(before: list[float], after: list[float]) -> float:
    """The two-sided p-value by every way to deal the values out."""
    values = [*before, *after]

    def smaller(chosen: tuple[int, ...]) -> int:
        ours = [values[index] for index in chosen]
        theirs = [value for index, value in enumerate(values) if index not in chosen]
        wins = sum(one > other for one in ours for other in theirs)
        return min(wins, len(ours) * len(theirs) - wins)

    seen = smaller(tuple(range(len(before))))
    deals = list(itertools.combinations(range(len(values)), len(before)))
    return sum(smaller(deal) <= seen for deal in deals) / len(deals)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 10_000), min_size=4, max_size=9, unique=True), st.integers(1, 3))
def test_the_rank_test_is_the_one_of_every_deal(values: list[int], split: int) -> None:
    before, after = [float(value) for value in values[:split]], [float(value) for value in values[split:]]
    found = mann_whitney(before, after)
    assert found.p_value == pytest.approx(min(1.0, exhaustive(before, after)))
    assert found.p_value >= found.least - 1e-12


def test_the_normal_approximation_joins_the_exact_test() -> None:
    rng = np.random.default_rng(7)
    before, after = rng.normal(size=20).tolist(), rng.normal(0.5, 1, size=20).tolist()
    exact = mann_whitney(before, after).p_value
    approximate = mann_whitney([*before, 90.0], [*after, 91.0]).p_value  # 21 x 21 is beyond the exact count
    assert approximate == pytest.approx(exact, abs=0.03)
    assert mann_whitney([1.0] * 30, [1.0] * 30).p_value == 1.0
    assert mann_whitney([1.0] * 15 + [2.0] * 15, [2.0] * 15 + [3.0] * 15).p_value < 1e-4


def test_the_rank_test_finds_no_difference_more_often_than_it_says() -> None:
    rng = np.random.default_rng(8)
    found = [
        mann_whitney(rng.lognormal(size=7).tolist(), rng.lognormal(size=7).tolist()).p_value <= 0.05
        for _ in range(2000)
    ]
    assert 0.02 <= np.mean(found) <= 0.055


def test_three_rounds_each_can_show_nothing() -> None:
    assert least_p_value(3, 3) == pytest.approx(0.1)
    assert mann_whitney([1, 2, 3], [10, 20, 30]).p_value == pytest.approx(0.1)
    with pytest.raises(ValueError, match="both sides"):
        mann_whitney([], [1.0])


def test_holm_is_his_own_example_and_keeps_the_family_at_alpha() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    rng = np.random.default_rng(9)
    families = rng.random((4000, 8))
    assert np.mean([min(holm(list(family))) <= 0.05 for family in families]) == pytest.approx(0.05, abs=0.012)
    assert np.mean(families.min(axis=1) <= 0.05) > 0.3  # what it would be without


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_never_lowers_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(before <= after <= 1 for before, after in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    assert [adjusted[index] for index in order] == sorted(adjusted)


@pytest.mark.parametrize(
    ("ratio", "p_value", "lower_is_better", "outcome"),
    [
        (1.5, 0.01, True, Outcome.WORSE),
        (1.5, 0.01, False, Outcome.BETTER),
        (0.7, 0.01, True, Outcome.BETTER),
        (0.7, 0.01, False, Outcome.WORSE),
        (1.04, 0.001, True, Outcome.SAME),  # significant, and too small to matter
        (0.97, 0.001, True, Outcome.SAME),
        (1.5, 0.06, True, Outcome.SAME),  # large, and within noise
    ],
)
def test_a_difference_is_significant_and_large(
    ratio: float, p_value: float, lower_is_better: bool, outcome: Outcome
) -> None:
    assert decide(ratio, p_value, 0.05, lower_is_better) is outcome
