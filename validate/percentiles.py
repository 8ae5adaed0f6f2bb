"""Percentiles where the samples are enough for them, with a bound that holds whatever the distribution."""

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from validate.measurement import Percentile
from validate.resampling import block_intervals

CONFIDENCE = 0.99  # of the upper bound, one-sided
OVER = 1  # samples that may lie above the bound: one outlier shall not be the figure
SHARES = (0.5, 0.9, 0.95, 0.99, 0.999)


def name_of(share: float) -> str:
    """`p99.9` for 0.999."""
    return f"p{100 * share:.10g}"


def shortage(found: Percentile) -> str | None:
    """Why there is no figure; None when there is one."""
    if found.value is not None:
        return None
    return f"not enough samples for {name_of(found.share)} (n = {found.n}, need {found.needed})"


def probabilities(n: int, share: float) -> Iterator[float]:
    """Probability that exactly 0, 1, ... of `n` independent samples lie above the percentile: the binomial's terms."""
    chance, rest = math.log1p(-share), math.log(share)
    for k in range(n + 1):
        ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        yield math.exp(ways + k * chance + (n - k) * rest)


def probability_at_most(over: int, n: int, share: float) -> float:
    """Probability that at most `over` of `n` independent samples lie above the percentile."""
    return min(1.0, math.fsum(itertools.islice(probabilities(n, share), over + 1)))


@lru_cache(maxsize=256)
def samples_needed(share: float, over: int = OVER, confidence: float = CONFIDENCE) -> int:
    """Fewest samples whose largest but `over` is above the percentile with `confidence`.

    The order-statistic bound (David and Nagaraja, Order Statistics, section 7.1); the early stopping of MLPerf
    Inference counts queries the same way.

    Raises:
        ValueError: a share or a confidence that is not between 0 and 1.
    """
    if not (0 < share < 1 and 0 < confidence < 1 and over >= 0):
        raise ValueError(f"no sample count for share {share}, {over} over, confidence {confidence}")
    allowed = 1 - confidence
    low, high = over, over + 1
    while probability_at_most(over, high, share) > allowed:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if probability_at_most(over, middle, share) <= allowed else (middle, high)
    return high


def upper_bound(ordered: Sequence[float], share: float) -> float:
    """The smallest sample that is above the percentile with `CONFIDENCE`; `ordered` ascending, enough of them."""
    n, total = len(ordered), 0.0
    for over, probability in enumerate(probabilities(n, share)):
        total += probability
        if total > 1 - CONFIDENCE:
            return ordered[n - over]
    raise AssertionError


def percentiles(blocks: Sequence[Sequence[float]], shares: Sequence[float] = SHARES) -> tuple[Percentile, ...]:
    """Each percentile of the samples of all blocks that there are enough of.

    Args:
        blocks: samples by request; those of one request depend on each other, so intervals resample whole requests.
        shares: ascending.
    """
    ordered = sorted(sample for block in blocks for sample in block)
    n = len(ordered)
    known = [share for share in shares if samples_needed(share) <= n]
    scarce = tuple(Percentile(share, n, samples_needed(share)) for share in shares if share not in known)
    if not known:
        return scarce
    intervals = block_intervals(blocks, known)
    found = (
        Percentile(
            share=share,
            n=n,
            needed=samples_needed(share),
            value=round(float(np.quantile(ordered, share)), 4),
            low=round(low, 4),
            high=round(high, 4),
            upper=round(upper_bound(ordered, share), 4),
            resamples=intervals.resamples,
        )
        for share, (low, high) in zip(known, intervals.ends, strict=True)
    )
    return (*found, *scarce)


def ecdf_half_width(n: int, alpha: float = 0.05) -> float:
    """Half the width of the band that holds the whole true distribution function with 1 - `alpha`.

    Dvoretzky, Kiefer and Wolfowitz (1956) with the constant of Massart (1990): sqrt(ln(2 / alpha) / 2n).
    """
    return math.sqrt(math.log(2 / alpha) / (2 * n))
