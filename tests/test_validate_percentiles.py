"""Percentiles: the published table of sample counts, and that the bounds hold as often as they say."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from validate.measurement import Percentile
from validate.percentiles import (
    ecdf_half_width,
    name_of,
    percentiles,
    probability_at_most,
    samples_needed,
    shortage,
    upper_bound,
)

# Samples for a one-sided bound at 99 %, by samples over it.
TABLE = {
    0.5: (7, 11, 14, 22, 35),
    0.9: (44, 64, 81, 127, 197),
    0.95: (90, 130, 165, 259, 398),
    0.99: (459, 662, 838, 1307, 2010),
    0.999: (4603, 6636, 8403, 13105, 20140),
}
OVER = (0, 1, 2, 5, 10)


@pytest.mark.parametrize("share", TABLE)
def test_sample_counts_are_those_of_the_table(share: float) -> None:
    assert tuple(samples_needed(share, over) for over in OVER) == TABLE[share]


def test_mlperf_automotive_asks_for_as_many_samples() -> None:
    assert samples_needed(0.999, 1) == 6636


@settings(deadline=None)
@given(st.floats(0.5, 0.999), st.integers(0, 12), st.floats(0.8, 0.999))
def test_the_count_is_the_smallest_that_will_do(share: float, over: int, confidence: float) -> None:
    n = samples_needed(share, over, confidence)
    assert probability_at_most(over, n, share) <= 1 - confidence < probability_at_most(over, n - 1, share)


@settings(deadline=None)
@given(st.floats(0.5, 0.99), st.floats(0.001, 0.009), st.integers(0, 10))
def test_higher_percentiles_and_more_outliers_take_more_samples(share: float, more: float, over: int) -> None:
    assert samples_needed(share + more, over) >= samples_needed(share, over)
    assert samples_needed(share, over + 1) > samples_needed(share, over)


@settings(deadline=None)
@given(st.integers(1, 60), st.floats(0.05, 0.95))
def test_the_binomial_sum_is_the_one_of_integers(n: int, share: float) -> None:
    for over in range(n + 1):
        exact = sum(math.comb(n, k) * (1 - share) ** k * share ** (n - k) for k in range(over + 1))
        assert probability_at_most(over, n, share) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, math.nan])
def test_no_sample_count_for_what_is_no_percentile(share: float) -> None:
    with pytest.raises(ValueError, match="no sample count"):
        samples_needed(share)


@pytest.mark.parametrize(("share", "n"), [(0.5, 11), (0.9, 64), (0.9, 100), (0.95, 130)])
def test_the_upper_bound_holds_in_99_of_100(share: float, n: int) -> None:
    rng = np.random.default_rng(1)
    truth = -math.log(1 - share)  # of an exponential distribution
    held = [upper_bound(sorted(rng.exponential(size=n)), share) >= truth for _ in range(4000)]
    assert np.mean(held) >= 0.985
    # One sample further down it would not hold so often: the bound is no wider than it has to be.
    assert np.mean([sorted(rng.exponential(size=n))[-4 if n < 100 else -6] >= truth for _ in range(4000)]) < 0.985


def test_a_percentile_without_enough_samples_says_so_and_has_no_figure() -> None:
    found = {name_of(each.share): each for each in percentiles([[float(value)] for value in range(100)])}
    assert shortage(found["p99"]) == "not enough samples for p99 (n = 100, need 662)"
    assert (found["p99"].value, found["p99"].upper, found["p99"].low) == (None, None, None)
    assert shortage(found["p99.9"]) == "not enough samples for p99.9 (n = 100, need 6636)"
    assert shortage(found["p90"]) is None
    assert found["p90"].value == pytest.approx(89.1)
    assert found["p90"].upper is not None
    assert found["p90"].upper > 89.1


@settings(max_examples=12, deadline=None)
@given(st.lists(st.lists(st.floats(0.1, 1e3), min_size=1, max_size=9), min_size=1, max_size=40))
def test_percentiles_rise_and_lie_within_their_bounds(blocks: list[list[float]]) -> None:
    found = percentiles(blocks)
    n = sum(map(len, blocks))
    assert [each.value is None for each in found] == [n < each.needed for each in found]
    known = [each for each in found if each.value is not None and each.upper is not None]
    values = [each.value for each in known if each.value is not None]
    assert values == sorted(values)
    assert all(each.value <= each.upper for each in known if each.value is not None and each.upper is not None)


def test_one_sample_less_than_needed_is_no_figure() -> None:
    (found,) = percentiles([[1.0]] * 63, (0.9,))
    assert found == Percentile(0.9, 63, 64)
    (found,) = percentiles([[1.0]] * 64, (0.9,))
    assert (found.value, found.upper, found.resamples) == (1.0, 1.0, 10_000)


def test_the_band_of_a_distribution_function_holds() -> None:
    rng, n = np.random.default_rng(2), 50
    steps = np.arange(1, n + 1) / n
    worst = []
    for _ in range(2000):
        uniform = np.sort(rng.random(n))
        worst.append(max(np.abs(uniform - steps).max(), np.abs(uniform - (steps - 1 / n)).max()))
    held = np.mean(np.array(worst) <= ecdf_half_width(n))
    assert 0.94 <= held <= 0.985
