"""Whether a machine stayed as it was: the state around a measurement, its drift, and the spread over restarts."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from targets.sensors import SensorReading, clock_source, read_sensors
from validate.measurement import Latency

LEAST_PROCESSES = 3  # fewer have no spread worth the name


@dataclass(frozen=True)
class Conditions:
    """What the machine was like around a measurement; None where there is no sensor.

    Attributes:
        governor: the frequency governor of the first CPU.
        clock_source: what the kernel keeps time by.
        before: sensors when it began.
        after: sensors when it ended.
    """

    governor: str | None
    clock_source: str | None
    before: SensorReading
    after: SensorReading


@dataclass(frozen=True)
class Process:
    """One process that loaded the package and answered requests.

    Attributes:
        cold_cache: the package's files were not in the page cache.
        load_s: seconds until a prompt could be taken.
        start_to_first_token_s: from the start of the process, imports and loading included.
        first_ttft_ms: time to first token of the first request after loading.
        ttft_ms: median of those after it.
        tpot_ms: median time per output token of those after it.
    """

    cold_cache: bool
    load_s: float
    start_to_first_token_s: float
    first_ttft_ms: float
    ttft_ms: float
    tpot_ms: float


@dataclass(frozen=True)
class Restarts:
    """The same measurement in fresh processes: cold and warm apart, and what restarting changes.

    Attributes:
        prompt_tokens: of every request.
        new_tokens: after the first.
        requests: after the first request, in each process.
        processes: in the order they ran.
        ttft_spread: largest distance of one process's warm TTFT from the median of them, as a share of it.
        tpot_spread: the same of the time per output token.
    """

    prompt_tokens: int
    new_tokens: int
    requests: int
    processes: tuple[Process, ...]
    ttft_spread: float | None
    tpot_spread: float | None

    @property
    def spread(self) -> float | None:
        """The larger of both; None with fewer than `LEAST_PROCESSES`."""
        found = [spread for spread in (self.ttft_spread, self.tpot_spread) if spread is not None]
        return max(found, default=None)


def spread_of(values: Sequence[float]) -> float | None:
    """Largest distance from the median, as a share of it; None with fewer than `LEAST_PROCESSES` values.

    MLPerf Mobile asks for at most 5 % in 5 tries.
    """
    if len(values) < LEAST_PROCESSES:
        return None
    centre = statistics.median(values)
    return max(abs(value / centre - 1) for value in values)


def drift_of(latency: Sequence[Latency]) -> float | None:
    """TTFT in the later half of the rounds over that in the earlier half, the median over prompt lengths.

    1 is a machine that stayed as it was. None with fewer than two rounds.
    """
    ratios = []
    for each in latency:
        samples = each.ttft_ms.samples
        half = len(samples) // 2
        if half:
            ratios.append(statistics.median(samples[-half:]) / statistics.median(samples[:half]))
    return statistics.median(ratios) if ratios else None


def drift_factor(drift: float) -> float:
    """How far a drift is from none, whichever way: 0.8 is as far as 1.25."""
    return max(drift, 1 / drift) if drift > 0 else float("inf")


def look_around(governor: str | None, before: SensorReading) -> Conditions:
    """The conditions of a measurement that has just ended."""
    return Conditions(governor, clock_source(), before, read_sensors())
