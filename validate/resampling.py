"""Confidence intervals by the bootstrap: of a median, of a ratio of medians, of dependent samples in blocks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validate.measurement import RESAMPLES, SEED

ENDS = (2.5, 97.5)  # percent: a 95 % interval
WORK = 10_000_000  # weights computed for one block interval: more samples get fewer resamples
LEAST_RESAMPLES = 500
CHUNK = 2_000_000  # weights held at once


@dataclass(frozen=True)
class Ratio:
    """A ratio with its 95 % confidence interval."""

    value: float
    low: float
    high: float


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """95 % percentile interval of the median of independent samples (Efron 1979)."""
    low, high = np.percentile(resampled_medians(samples, np.random.default_rng(SEED)), ENDS)
    return float(low), float(high)


def median_ratio(after: Sequence[float], before: Sequence[float]) -> Ratio:
    """Median of `after` over median of `before`, both resampled; samples above zero."""
    rng = np.random.default_rng(SEED)
    ratios = resampled_medians(after, rng) / resampled_medians(before, rng)
    low, high = np.percentile(ratios, ENDS)
    return Ratio(float(np.median(after) / np.median(before)), float(low), float(high))


@dataclass(frozen=True)
class MeanDifference:
    """A mean of paired differences, with its 95 % interval and the two-sided p-value of its being zero."""

    value: float
    low: float
    high: float
    p_value: float


def mean_interval(samples: Sequence[float]) -> tuple[float, float]:
    """95 % percentile interval of the mean of independent values, such as one a text."""
    found = mean_difference(samples, [1.0] * len(samples))
    return found.low, found.high


def mean_difference(differences: Sequence[float], weights: Sequence[float]) -> MeanDifference:
    """The weighted mean of independent differences, resampled; weights above zero.

    The p-value is twice the smaller share of resampled means on one side of zero, never below two in `RESAMPLES`.
    """
    values, shares = np.asarray(differences, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    draws = np.random.default_rng(SEED).integers(0, len(values), (RESAMPLES, len(values)))
    means = (values * shares)[draws].sum(axis=1) / shares[draws].sum(axis=1)
    low, high = np.percentile(means, ENDS)
    side = max(1 / RESAMPLES, min(np.mean(means <= 0), np.mean(means >= 0)))
    mean = float((values * shares).sum() / shares.sum())
    return MeanDifference(mean, float(low), float(high), min(1.0, 2 * float(side)))


def resampled_medians(samples: Sequence[float], rng: np.random.Generator) -> NDArray[np.float64]:
    """[RESAMPLES] medians of draws with replacement."""
    values = np.asarray(samples, dtype=np.float64)
    return np.asarray(np.median(values[rng.integers(0, len(values), (RESAMPLES, len(values)))], axis=1))


@dataclass(frozen=True)
class BlockIntervals:
    """95 % intervals of percentiles, and the resamples behind them."""

    ends: tuple[tuple[float, float], ...]
    resamples: int


def block_intervals(
    blocks: Sequence[Sequence[float]], shares: Sequence[float], resamples: int = RESAMPLES
) -> BlockIntervals:
    """95 % intervals of percentiles of samples that depend on each other within a block.

    Whole blocks are drawn with replacement (Kuensch 1989; Davison and Hinkley, Bootstrap Methods, section 8.2.3), so
    that what the samples of one request have in common stays in. Samples are sorted once: a resample only changes how
    often each block counts.
    """
    sizes = [len(block) for block in blocks]
    values = np.concatenate([np.asarray(block, dtype=np.float64) for block in blocks])
    order = np.argsort(values, kind="stable")
    values, owner = values[order], np.repeat(np.arange(len(blocks)), sizes)[order]
    resamples = min(resamples, max(LEAST_RESAMPLES, WORK // len(values)))
    rng = np.random.default_rng(SEED)
    step = max(1, CHUNK // len(values))
    wanted = np.asarray(shares)
    found: list[NDArray[np.float64]] = []
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, len(blocks), (rows, len(blocks))) + len(blocks) * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * len(blocks)).reshape(rows, len(blocks))
        weights = counts.astype(np.int32)[:, owner].cumsum(axis=1, dtype=np.int32)
        found += [values[np.searchsorted(row, wanted * row[-1])] for row in weights]
    low, high = np.percentile(np.array(found), ENDS, axis=0)
    return BlockIntervals(tuple(zip(low.tolist(), high.tolist(), strict=True)), resamples)
