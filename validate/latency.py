"""Time to first token and time per output token through the shipped pipeline."""

import statistics
import time
from collections.abc import Callable, Sequence

from validate.measurement import Latency, Sampled
from validate.percentiles import percentiles
from validate.plans import LatencyPlan
from validate.resampling import median_interval
from validate.runtime import Generation, Pipeline

Progress = Callable[[int, int], None]


def measure_latency(
    pipeline: Pipeline, text: Sequence[int], plan: LatencyPlan, progress: Progress
) -> tuple[Latency, ...]:
    """Generate from the first tokens of `text` at every prompt length, round by round.

    Args:
        pipeline: a loaded package.
        text: token ids, repeated where a prompt is longer.
        plan: lengths and rounds.
        progress: called with (rounds done, rounds in all).
    """
    longest = max(plan.prompt_lengths)
    tokens = [text[index % len(text)] for index in range(longest)]
    seen: dict[int, list[Generation]] = {length: [] for length in plan.prompt_lengths}
    for length in plan.prompt_lengths:
        if length <= plan.warm_up_tokens:
            pipeline.generate(tokens[:length], plan.new_tokens + 1, stop=False)
    start = time.monotonic()
    for number in range(plan.rounds):
        if number >= plan.least_rounds and time.monotonic() - start > plan.budget_s:
            break
        for length in plan.prompt_lengths:
            seen[length].append(pipeline.generate(tokens[:length], plan.new_tokens + 1, stop=False))
        progress(number + 1, plan.rounds)
    return tuple(summarise(length, plan.new_tokens, generations) for length, generations in sorted(seen.items()))


def summarise(length: int, new_tokens: int, generations: Sequence[Generation]) -> Latency:
    """Pool the rounds at one prompt length."""
    first = [1e3 * generation.ttft_s for generation in generations]
    between = [[1e3 * interval for interval in generation.intervals_s] for generation in generations]
    return Latency(
        prompt_tokens=length,
        new_tokens=new_tokens,
        ttft_ms=sampled(first),
        tpot_ms=sampled([statistics.median(intervals) for intervals in between]),
        intervals_ms=tuple(round(interval, 4) for intervals in between for interval in intervals),
        ttft_percentiles=percentiles([[each] for each in first]),
        interval_percentiles=percentiles(between),
    )


def sampled(samples: Sequence[float]) -> Sampled:
    """The median with a 95 % percentile-bootstrap interval."""
    low, high = median_interval(samples)
    return Sampled(float(statistics.median(samples)), low, high, tuple(round(float(value), 4) for value in samples))
