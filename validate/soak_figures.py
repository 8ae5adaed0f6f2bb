"""Requests of a soak, one after another for a long time -> token rate, memory growth, heat and energy."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from targets.sensors import SensorReading
from validate.measurement import Percentile
from validate.percentiles import percentiles
from validate.steadiness import Conditions

SCHEMA_VERSION = 1
WINDOW_S = 300.0  # the first and the last five minutes are compared
WINDOW_SHARE = 6  # of a soak too short for that, the first and the last sixth
SLICES = 120
WARM_UP = 10  # the first tenth of the requests may fill caches: no leak
LEAST_REQUESTS = 20  # after it, for a slope
MOST_POINTS = 400  # of a slope: pairs grow with the square


@dataclass(frozen=True)
class SoakPlan:
    """What is run.

    Attributes:
        minutes: of constant load.
        prompt_tokens: of every request.
        new_tokens: after the first.
        idle_s: watched before the load, where there is an energy sensor: what the machine draws by itself.
    """

    minutes: float = 30.0
    prompt_tokens: int = 128
    new_tokens: int = 32
    idle_s: float = 10.0


@dataclass(frozen=True)
class Request:
    """One request of a soak.

    Attributes:
        end_s: when it ended, seconds after the load began.
        ttft_ms: time to its first token.
        intervals_ms: times between its tokens.
        memory_bytes: resident size of the process after it.
        sensors: after it.
        joules: since the load began; None without a sensor.
    """

    end_s: float
    ttft_ms: float
    intervals_ms: tuple[float, ...]
    memory_bytes: int
    sensors: SensorReading
    joules: float | None

    @property
    def tokens(self) -> int:
        """It generated so many."""
        return len(self.intervals_ms) + 1


@dataclass(frozen=True)
class Slice:
    """A stretch of a soak, for a curve over time.

    Attributes:
        end_s: when it ended, seconds after the load began.
        requests: that ended in it.
        tokens_per_second: generated, prefill included in the time.
        ttft_ms: median.
        tpot_ms: median.
        memory_bytes: at its end.
        temperature_c: the hottest zone at its end.
        clock_mhz: mean of the processors at its end.
        watts: mean; None without a sensor.
    """

    end_s: float
    requests: int
    tokens_per_second: float
    ttft_ms: float
    tpot_ms: float
    memory_bytes: int
    temperature_c: float | None
    clock_mhz: float | None
    watts: float | None


@dataclass(frozen=True)
class Soak:
    """A package under constant load.

    Attributes:
        schema_version: of this layout.
        taken: ISO 8601 time of its end.
        package_digest: of what ran.
        minutes: it ran.
        prompt_tokens: of every request.
        new_tokens: after the first.
        requests: completed.
        tokens: generated.
        window_s: length of the first and the last stretch that are compared.
        rate_first: tokens per second in the first.
        rate_last: tokens per second in the last.
        rate_ratio: last over first: what heat and leaks cost.
        memory_bytes: median resident size.
        memory_growth: growth in 1,000 requests as a share of that; None with too few requests for a slope.
        throttled: times the processors were slowed for heat meanwhile; None without a counter.
        energy_sensor: what energy was read from, or `no sensor`.
        joules: drawn meanwhile; None without a sensor.
        idle_watts: drawn before the load; None without a sensor.
        joules_per_token: generated, what the machine draws idle subtracted, prefill included.
        ttft_percentiles: of every request.
        interval_percentiles: of every time between two tokens.
        slices: over time.
        conditions: around it.
    """

    schema_version: int
    taken: str
    package_digest: str
    minutes: float
    prompt_tokens: int
    new_tokens: int
    requests: int
    tokens: int
    window_s: float
    rate_first: float
    rate_last: float
    rate_ratio: float
    memory_bytes: int
    memory_growth: float | None
    throttled: int | None
    energy_sensor: str
    joules: float | None
    idle_watts: float | None
    joules_per_token: float | None
    ttft_percentiles: tuple[Percentile, ...]
    interval_percentiles: tuple[Percentile, ...]
    slices: tuple[Slice, ...]
    conditions: Conditions


@dataclass(frozen=True)
class Surroundings:
    """What stands beside a soak's requests.

    Attributes:
        taken: ISO 8601 time of its end.
        package_digest: of what ran.
        energy_sensor: what energy was read from, or `no sensor`.
        idle_watts: before the load; None without a sensor.
        conditions: around it.
    """

    taken: str
    package_digest: str
    energy_sensor: str
    idle_watts: float | None
    conditions: Conditions


def summarise(plan: SoakPlan, requests: Sequence[Request], around: Surroundings) -> Soak:
    """The figures of a soak; there is at least one request."""
    seconds = requests[-1].end_s
    window = min(WINDOW_S, seconds / WINDOW_SHARE)
    first, last = token_rate(requests, 0.0, window), token_rate(requests, seconds - window, seconds)
    tokens = sum(request.tokens for request in requests)
    joules = requests[-1].joules
    used = None if joules is None else joules - (around.idle_watts or 0.0) * seconds
    before, after = around.conditions.before.throttled, around.conditions.after.throttled
    return Soak(
        schema_version=SCHEMA_VERSION,
        taken=around.taken,
        package_digest=around.package_digest,
        minutes=seconds / 60,
        prompt_tokens=plan.prompt_tokens,
        new_tokens=plan.new_tokens,
        requests=len(requests),
        tokens=tokens,
        window_s=window,
        rate_first=first,
        rate_last=last,
        rate_ratio=last / first,
        memory_bytes=int(statistics.median(request.memory_bytes for request in requests)),
        memory_growth=memory_growth([request.memory_bytes for request in requests]),
        throttled=None if before is None or after is None else after - before,
        energy_sensor=around.energy_sensor,
        joules=joules,
        idle_watts=around.idle_watts,
        joules_per_token=None if used is None else used / tokens,
        ttft_percentiles=percentiles([[request.ttft_ms] for request in requests]),
        interval_percentiles=percentiles([request.intervals_ms for request in requests]),
        slices=cut(requests),
        conditions=around.conditions,
    )


def token_rate(requests: Sequence[Request], start_s: float, end_s: float) -> float:
    """Tokens per second between two times; a request counts by the part of it that lies between them."""
    begun, tokens = 0.0, 0.0
    for request in requests:
        inside = min(end_s, request.end_s) - max(start_s, begun)
        if inside > 0:
            tokens += request.tokens * inside / (request.end_s - begun)
        begun = request.end_s
    return tokens / (end_s - start_s)


def memory_growth(memory_bytes: Sequence[int]) -> float | None:
    """Growth of resident memory in 1,000 requests as a share of its median; None with too few requests.

    The median of the slopes between all pairs (Theil 1950, Sen 1968): single jumps do not move it, a leak does.
    """
    kept = np.asarray(memory_bytes[len(memory_bytes) // WARM_UP :], dtype=np.float64)
    if len(kept) < LEAST_REQUESTS:
        return None
    at = np.unique(np.linspace(0, len(kept) - 1, min(len(kept), MOST_POINTS)).astype(int))
    one, other = np.triu_indices(len(at), 1)
    slope = np.median((kept[at[other]] - kept[at[one]]) / (at[other] - at[one]))
    return float(1000 * slope / np.median(kept))


def cut(requests: Sequence[Request]) -> tuple[Slice, ...]:
    """At most `SLICES` stretches of equal length; one without a finished request is joined to the next."""
    length = requests[-1].end_s / SLICES
    slices: list[Slice] = []
    kept: list[Request] = []
    start, joules = 0.0, 0.0
    for request in requests:
        kept.append(request)
        if request.end_s - start < length and request is not requests[-1]:
            continue
        took = request.end_s - start
        slices.append(
            Slice(
                end_s=round(request.end_s, 3),
                requests=len(kept),
                tokens_per_second=sum(each.tokens for each in kept) / took,
                ttft_ms=statistics.median(each.ttft_ms for each in kept),
                tpot_ms=statistics.median(time for each in kept for time in each.intervals_ms),
                memory_bytes=request.memory_bytes,
                temperature_c=request.sensors.temperature_c,
                clock_mhz=request.sensors.clock_mhz,
                watts=None if request.joules is None else (request.joules - joules) / took,
            )
        )
        start, joules, kept = request.end_s, request.joules or 0.0, []
    return tuple(slices)
