"""Statistics of right and wrong answers to the same items by a reference and a candidate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

RESAMPLES = 10_000
SEED = 20260101
ALPHA = 0.05  # one-sided
POWER = 0.8
BISECTIONS = 60  # halvings of an interval of 2: far below any rounding


@dataclass(frozen=True)
class Paired:
    """A candidate against a reference on the same items, right or wrong.

    Attributes:
        items: how many.
        both: items that both got right.
        only_reference: items that only the reference got right.
        only_candidate: items that only the candidate got right.
        difference: the candidate's accuracy minus the reference's.
        low: lower end of its 95 % confidence interval, resampled over items.
        high: upper end of it.
        bound: one-sided 95 % lower bound of the difference (Tango 1998), which holds without a discordant item too.
        p_value: exact two-sided McNemar test that the two are equally good.
        margin: the loss of accuracy that the product declared to be tolerable.
        needed: items to show non-inferiority within the margin with 80 % power, at the discordance that was seen.
    """

    items: int
    both: int
    only_reference: int
    only_candidate: int
    difference: float
    low: float
    high: float
    bound: float
    p_value: float
    margin: float
    needed: int

    @property
    def reference_accuracy(self) -> float:
        """Share of items that the reference got right."""
        return (self.both + self.only_reference) / self.items

    @property
    def candidate_accuracy(self) -> float:
        """Share of items that the candidate got right."""
        return (self.both + self.only_candidate) / self.items

    @property
    def enough(self) -> bool:
        """Whether there are as many items as the margin needs."""
        return self.items >= self.needed

    @property
    def non_inferior(self) -> bool:
        """Whether a loss above the margin is ruled out."""
        return self.bound > -self.margin


def compare_paired(reference: Sequence[bool], candidate: Sequence[bool], margin: float) -> Paired:
    """Compare two sequences of right (True) and wrong answers, item by item.

    Raises:
        ValueError: no items, or not as many of one as of the other.
    """
    if not reference or len(reference) != len(candidate):
        raise ValueError(f"paired statistics need pairs: {len(reference)} and {len(candidate)} answers")
    ours, theirs = np.array(candidate, dtype=bool), np.array(reference, dtype=bool)
    lost, gained = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
    low, high = bootstrap_interval(lost, gained, len(ours))
    return Paired(
        items=len(ours),
        both=int((ours & theirs).sum()),
        only_reference=lost,
        only_candidate=gained,
        difference=(gained - lost) / len(ours),
        low=low,
        high=high,
        bound=tango_bound(lost, gained, len(ours), ALPHA),
        p_value=mcnemar_exact(lost, gained),
        margin=margin,
        needed=items_needed(discordance(lost, gained, len(ours)), margin),
    )


def mcnemar_exact(lost: int, gained: int) -> float:
    """Two-sided probability of a split as uneven as this among the discordant items, were both equally good."""
    trials, least = lost + gained, min(lost, gained)
    tail = sum(math.comb(trials, count) for count in range(least + 1)) / (1 << trials)
    return min(1.0, 2 * tail)


def bootstrap_interval(lost: int, gained: int, items: int) -> tuple[float, float]:
    """95 % percentile interval of the difference; resampling items is a draw from a multinomial of three outcomes."""
    shares = np.array([lost, gained, items - lost - gained]) / items
    drawn = np.random.default_rng(SEED).multinomial(items, shares, size=RESAMPLES)
    low, high = np.percentile((drawn[:, 1] - drawn[:, 0]) / items, [2.5, 97.5])
    return float(low), float(high)


def tango_bound(lost: int, gained: int, items: int, alpha: float) -> float:
    """The smallest difference that a one-sided score test at `alpha` does not reject.

    Tango, Statistics in Medicine 17 (1998) 891-908: the variance is taken at the hypothesis, so that it is not zero
    when no item is discordant. Found by bisection: the statistic falls as the hypothesis rises.
    """
    wanted = NormalDist().inv_cdf(1 - alpha)
    low, high = -1.0, (gained - lost) / items
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if tango_statistic(lost, gained, items, middle) > wanted else (low, middle)
    return low


def tango_statistic(lost: int, gained: int, items: int, difference: float) -> float:
    """The score statistic of the hypothesis that the true difference is `difference`, in (-1, 1)."""
    a = 2 * items
    b = -gained - lost + (2 * items - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    only_reference = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = items * (2 * only_reference + difference * (1 - difference))
    distance = gained - lost - items * difference
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)


def discordance(lost: int, gained: int, items: int) -> float:
    """Share of discordant items; with none seen, the 95 % upper bound of 3 in `items`."""
    return (lost + gained or min(3, items)) / items


def items_needed(discordant: float, margin: float) -> int:
    """Items for a one-sided non-inferiority test at `ALPHA` with `POWER`: (z_alpha + z_power)^2 d / margin^2."""
    quantiles = NormalDist().inv_cdf(1 - ALPHA) + NormalDist().inv_cdf(POWER)
    return math.ceil(quantiles**2 * discordant / margin**2)
