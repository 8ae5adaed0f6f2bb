"""Whether two sets of samples differ: the Mann-Whitney test, Holm's correction, a verdict that wants an effect."""

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np

ALPHA = 0.05  # two-sided, for a family of comparisons
EXACT = 400  # product of the sample counts up to which the exact distribution is counted


class Outcome(enum.StrEnum):
    """What a comparison came to."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "same within noise"
    NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True)
class RankTest:
    """A Mann-Whitney test.

    Attributes:
        p_value: two-sided.
        least: the smallest p-value that so many samples can give.
    """

    p_value: float
    least: float


def mann_whitney(before: Sequence[float], after: Sequence[float]) -> RankTest:
    """Two-sided test that neither sample tends to be larger (Mann and Whitney 1947).

    Exact without ties for small samples, else by the normal approximation with corrections for ties and continuity.

    Raises:
        ValueError: a sample is empty.
    """
    n, m = len(before), len(after)
    if not n or not m:
        raise ValueError(f"a rank test needs samples on both sides: {n} and {m}")
    one, two = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    greater = float((two[:, None] > one[None, :]).sum() + 0.5 * (two[:, None] == one[None, :]).sum())
    statistic = min(greater, n * m - greater)
    _, ties = np.unique(np.concatenate([one, two]), return_counts=True)
    if n * m <= EXACT and ties.max() == 1:
        below = sum(arrangements(n, m, value) for value in range(int(statistic) + 1))
        p_value = 2 * below / math.comb(n + m, n)
    else:
        p_value = normal_p_value(statistic, n, m, ties.tolist())
    return RankTest(min(1.0, p_value), least_p_value(n, m))


@cache
def arrangements(n: int, m: int, statistic: int) -> int:
    """Orders of n and m samples that give the U statistic: f(n, m, u) = f(n - 1, m, u - m) + f(n, m - 1, u)."""
    if statistic < 0 or statistic > n * m:
        return 0
    if n == 0 or m == 0:
        return int(statistic == 0)
    return arrangements(n - 1, m, statistic - m) + arrangements(n, m - 1, statistic)


def normal_p_value(statistic: float, n: int, m: int, ties: Sequence[int]) -> float:
    """Two-sided p-value of the smaller U by the normal approximation; `ties` are sizes of equal groups."""
    total = n + m
    excess = sum(size**3 - size for size in ties) / (total * (total - 1))
    variance = n * m / 12 * (total + 1 - excess)
    if variance <= 0:
        return 1.0
    distance = max(0.0, n * m / 2 - statistic - 0.5)
    return 2 * (1 - NormalDist().cdf(distance / math.sqrt(variance)))


def least_p_value(n: int, m: int) -> float:
    """The two-sided p-value when every sample of one side is above every one of the other."""
    return min(1.0, 2 / math.comb(n + m, n))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """p-values of one family, adjusted so that each can be held against alpha itself (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return tuple(adjusted)


def decide(ratio: float, p_value: float, effect: float, lower_is_better: bool) -> Outcome:
    """Better or worse only where the difference is both significant and larger than `effect`, a share."""
    if p_value > ALPHA or max(ratio, 1 / ratio) <= 1 + effect:
        return Outcome.SAME
    return Outcome.BETTER if (ratio < 1) == lower_is_better else Outcome.WORSE
