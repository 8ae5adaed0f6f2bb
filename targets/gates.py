"""The figures a package must reach before it ships: fidelity by precision class, and the limits of the product."""

from dataclasses import dataclass, fields

from targets.errors import UsageError

POSITIVE = (1e-9, 1e12)

# What each figure can sensibly be, both ends included. NaN is inside no range, and "no limit" is None, not infinity.
BOUNDS: dict[str, tuple[float, float]] = {
    "kl_mean_max": (0.0, 20.0),
    "kl_p99_max": (0.0, 20.0),
    "top1_min": (0.0, 1.0),
    "perplexity_ratio_max": (1.0, 100.0),
    "runtime_kl_gap_max": (0.0, 20.0),
    "device_kl_max": (0.0, 20.0),
    "device_top1_min": (0.0, 1.0),
    "kv_kl_cost_max": (0.0, 20.0),
    "kv_saving_min": (0.0, 1.0),
    "vehicle_agreement_min": (0.0, 1.0),
    "vehicle_loss_max": (0.0, 1.0),
    "repetition_max": (0.0, 1.0),
    "length_ratio_min": (0.0, 1.0),
    "length_ratio_max": (1.0, 100.0),
    "ttft_ms_max": POSITIVE,
    "decode_tokens_per_second_min": POSITIVE,
    "peak_memory_mb_max": POSITIVE,
    "package_mb_max": POSITIVE,
    "load_s_max": POSITIVE,
    "drift_max": (1.0, 100.0),
    "spread_max": (0.0, 10.0),
    "soak_rate_ratio_min": (0.0, 10.0),
    "soak_minutes_min": POSITIVE,
    "memory_growth_max": (0.0, 10.0),
}

# A machine that drifted further during a measurement is not compared with another; a target may say otherwise.
DRIFT_MAX = 1.10
# A soak shorter than this shows no steady state; a target may say otherwise.
SOAK_MINUTES_MIN = 30.0


class FieldError(UsageError, ValueError):
    """A value that a field cannot have; a ValueError too, so that pydantic lists it with its path among the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What the product allows, whatever the precision. None: the product sets no such limit.

    Attributes:
        ttft_ms_max: time to the first token in milliseconds, keyed by the prompt's length in tokens.
        decode_tokens_per_second_min: tokens per second after the first, one sequence at a time.
        peak_memory_mb_max: highest resident memory of the process that loads and runs the package, in 10^6 bytes.
        package_mb_max: size of the package's files, in 10^6 bytes.
        load_s_max: seconds from the start of loading until the first prompt can be taken.
        drift_max: factor between the first and the last rounds of a latency measurement, whichever way; beyond it
            latency is not comparable, and INCOMPLETE. `DRIFT_MAX` marks latency where a target sets none.
        spread_max: largest distance of one process's latency from the median over process restarts, as a share.
        soak_rate_ratio_min: token rate in the last five minutes of a soak over that in the first five.
        soak_minutes_min: a shorter soak is INCOMPLETE; `SOAK_MINUTES_MIN` where a target sets none.
        memory_growth_max: growth of resident memory in 1,000 requests of a soak, as a share.

    Raises:
        FieldError: a figure outside its `BOUNDS`, or a prompt length below one token.
    """

    ttft_ms_max: dict[int, float] | None = None
    decode_tokens_per_second_min: float | None = None
    peak_memory_mb_max: float | None = None
    package_mb_max: float | None = None
    load_s_max: float | None = None
    drift_max: float | None = None
    spread_max: float | None = None
    soak_rate_ratio_min: float | None = None
    soak_minutes_min: float | None = None
    memory_growth_max: float | None = None

    def __post_init__(self) -> None:
        _check_bounds(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Gates(Limits):
    """What a package of one precision class must reach. An optional figure that is None is no gate.

    KL is the divergence of the package's next-token distribution from the float model's, in nats per token.

    Attributes:
        kl_mean_max: mean KL over all positions.
        kl_p99_max: 99th percentile of KL over all positions.
        top1_min: share of positions, 0 to 1, where both name the same most likely token.
        perplexity_ratio_max: perplexity of the package over that of the float model, 1 being equal.
        runtime_kl_gap_max: how far apart, in nats, the mean KL of two runtimes may be on the same weights at float32.
        device_kl_max: mean KL of what a simulator or an emulator of the device computes from what this host's CPU
            computes in float32 with the same weights. Judged only where the device itself is not here.
        kv_kl_cost_max: mean KL at positions beyond 1,024 tokens that the KV cache's shipped precision costs.
        kv_saving_min: share of a 16-bit KV cache's memory, 0 to 1, that the shipped one saves. Like the cost, judged
            where a narrower cache ships.
        vehicle_agreement_min: share of the in-vehicle suite's requests for which the package prefers the tool call that
            the float model prefers.
        vehicle_loss_max: largest loss of accuracy in that suite, with 95 % confidence (Tango's one-sided bound).
        repetition_max: share of 4-grams in greedy answers that occurred in them before, beyond the float model's.
        device_top1_min: share of positions, 0 to 1, where those two name the same most likely token.
        length_ratio_min: tokens of greedy answers over those of the float model's, at least this.
        length_ratio_max: tokens of greedy answers over those of the float model's, at most this.

    Raises:
        FieldError: a figure outside its `BOUNDS`, or a 99th percentile gate tighter than the gate on the mean.
    """

    kl_mean_max: float
    top1_min: float
    perplexity_ratio_max: float
    runtime_kl_gap_max: float
    kl_p99_max: float | None = None
    length_ratio_min: float | None = None
    length_ratio_max: float | None = None
    device_kl_max: float | None = None
    device_top1_min: float | None = None
    kv_kl_cost_max: float | None = None
    kv_saving_min: float | None = None
    vehicle_agreement_min: float | None = None
    vehicle_loss_max: float | None = None
    repetition_max: float | None = None

    @property
    def needs_experience(self) -> bool:
        """Some gate judges what users feel, so that has to be measured."""
        judged = (self.vehicle_agreement_min, self.vehicle_loss_max, self.repetition_max)
        return any(bound is not None for bound in judged)

    def __post_init__(self) -> None:
        _check_bounds(self)
        if self.kl_p99_max is not None and self.kl_p99_max < self.kl_mean_max:
            raise FieldError(
                f"kl_p99_max = {self.kl_p99_max} is below kl_mean_max = {self.kl_mean_max}",
                "a 99th percentile is gated at or above the mean",
            )

    def within(self, limits: Limits) -> "Gates":
        """These gates, with each product limit that they do not set themselves taken from `limits`."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        shared = {field.name: getattr(limits, field.name) for field in fields(Limits) if own[field.name] is None}
        return Gates(**{**own, **shared})


def _check_bounds(figures: Limits) -> None:
    for field in fields(figures):
        value = getattr(figures, field.name)
        if isinstance(value, dict):
            _check_prompt_lengths(field.name, value)
        for figure in value.values() if isinstance(value, dict) else [value]:
            low, high = BOUNDS[field.name]
            if figure is not None and not low <= figure <= high:
                raise FieldError(
                    f"{field.name} = {figure} is outside {low:g} to {high:g}",
                    "shares are given from 0 to 1, not in percent; leave a key out where there is no limit",
                )


def _check_prompt_lengths(name: str, by_length: dict[int, float]) -> None:
    if not by_length or min(by_length) < 1:
        raise FieldError(f"{name} needs prompt lengths of at least one token", f"write {name} = {{ 128 = 400 }}")
