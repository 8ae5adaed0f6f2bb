"""Time to first token and time per output token through the shipped pipeline."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from validate.measurement import Latency, Sampled
from validate.percentiles import percentiles
from validate.resampling import median_interval
from validate.runtime import Generation, Pipeline

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LatencyPlan:
    """What is timed.

    Attributes:
        prompt_lengths: in tokens.
        new_tokens: generated after the first token.
        rounds: counted, at most; prompt lengths alternate within a round, so that a drift of the machine meets all.
        least_rounds: taken even when the budget is spent.
        budget_s: no round is begun after this many seconds.
        warm_up_tokens: longest prompt that is run once before, not counted.
        restarts: fresh processes that load the package and answer, at least 2; a spread takes 3.
        restart_requests: timed in each of them after the first.
    """

    prompt_lengths: tuple[int, ...] = (32, 128, 512, 1024)
    new_tokens: int = 16
    rounds: int = 5
    least_rounds: int = 3
    budget_s: float = 15.0
    warm_up_tokens: int = 128
    restarts: int = 3
    restart_requests: int = 3

    @property
    def restart_prompt(self) -> int:
        """Length of the prompt in those processes: the longest that is cheap."""
        cheap = [length for length in self.prompt_lengths if length <= self.warm_up_tokens]
        return max(cheap, default=min(self.prompt_lengths))


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
