"""Which figures of a candidate are compared, and how each is read off its measurement."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from validate.boundaries import largest_kl
from validate.figures import RATIO_DIGITS
from validate.measurement import Fidelity, Latency, Loading
from validate.report import Candidate


@dataclass(frozen=True)
class Reading:
    """A figure before it is written.

    Attributes:
        value: in the unit its gate uses.
        low: lower end of its 95 % confidence interval, or None.
        high: upper end of it.
        n: samples it stands on, or None.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


Read = Callable[[Candidate], Reading | None]


@dataclass(frozen=True)
class Figure:
    """One kind of figure.

    Attributes:
        group: the heading it stands under.
        label: what it is.
        unit: of the figure as it is written; a share is written in percent.
        read: its reading off a candidate, None when it was not measured.
        gates: names of the gates that may judge it, its own first: that one it shows even when it was not measured.
        digits: significant digits.
    """

    group: str
    label: str
    unit: str
    read: Read
    gates: tuple[str, ...] = ()
    digits: int = 3


def prompt_lengths(candidates: Iterable[Candidate]) -> tuple[int, ...]:
    """Every prompt length that any of them was timed at."""
    return tuple(sorted({one.prompt_tokens for item in candidates for one in item.measurement.latency}))


def time_to_first_token(candidate: Candidate, tokens: int) -> Reading | None:
    """Milliseconds, median over rounds."""
    found = _latency_at(candidate, tokens)
    if found is None:
        return None
    return Reading(found.ttft_ms.median, found.ttft_ms.low, found.ttft_ms.high, len(found.ttft_ms.samples))


def decode_speed(candidate: Candidate, tokens: int) -> Reading | None:
    """Tokens per second after the first: the reciprocal of the time per token, the ends of its interval swapped."""
    found = _latency_at(candidate, tokens)
    if found is None or min(found.tpot_ms.low, found.tpot_ms.median) <= 0:
        return None
    time = found.tpot_ms
    return Reading(1000 / time.median, 1000 / time.high, 1000 / time.low, len(time.samples))


def fidelity(setting: str, read: Callable[[Fidelity], Reading | None]) -> Read:
    """A reading of one of the two fidelities; what a simulator or an emulator computed is not the package deployed."""

    def read_candidate(candidate: Candidate) -> Reading | None:
        measured = candidate.measurement
        found = measured.fidelity.get(setting) if setting == "weights" or not measured.stand_in else None
        return read(found) if found else None

    return read_candidate


def decode_kl(found: Fidelity) -> Reading | None:
    """Mean KL of the positions computed one at a time."""
    return None if found.kl_decode is None else Reading(found.kl_decode)


def stand_in(read: Callable[[Fidelity], Reading | None]) -> Read:
    """A reading of what a simulator or an emulator computed, beside the float model."""

    def read_candidate(candidate: Candidate) -> Reading | None:
        measured = candidate.measurement
        found = measured.fidelity.get("deployed") if measured.stand_in else None
        return read(found) if found else None

    return read_candidate


def device_kl(candidate: Candidate) -> Reading | None:
    """Mean KL of a simulator or an emulator from this CPU."""
    gap = candidate.measurement.device_gap
    return Reading(gap.kl_mean, n=gap.positions) if gap else None


def device_top1(candidate: Candidate) -> Reading | None:
    """Share of positions where those two name the same most likely token."""
    gap = candidate.measurement.device_gap
    return Reading(gap.top1, n=gap.positions) if gap else None


def boundary_kl(candidate: Candidate) -> Reading | None:
    """Largest KL of prompts at the edges of the package's static shapes; n counts the prompts."""
    found = candidate.measurement.boundaries
    return Reading(largest_kl(found), n=len(found)) if found else None


def mean_kl(found: Fidelity) -> Reading:
    """Mean KL with its interval."""
    return Reading(found.kl_mean, found.kl_low, found.kl_high, found.positions)


def kinds(candidates: Iterable[Candidate]) -> tuple[Figure, ...]:
    """What is compared, in the order a reader asks: size, fidelity, latency, loading."""
    lengths = prompt_lengths(candidates)
    first = tuple(first_token(tokens) for tokens in lengths) or (Figure(FIRST, "Any prompt", "ms", lambda _: None),)
    later = tuple(decode(tokens) for tokens in lengths) or (
        Figure(LATER, "Any prompt", "tok/s", lambda _: None, (SPEED,)),
    )
    columns = tuple(candidates)
    edges = EDGES if any(item.measurement.boundaries for item in columns) else ()
    beside = (*DEVICE, *edges) if any(item.measurement.device_gap for item in columns) else ()
    return (SIZE, *FIDELITY, *beside, *first, *later, *LOADING)


def first_token(tokens: int) -> Figure:
    """Time to first token at a prompt of so many."""
    read = partial(time_to_first_token, tokens=tokens)
    return Figure(FIRST, f"Prompt of {tokens} tokens", "ms", read, (f"ttft_ms.{tokens}",))


def decode(tokens: int) -> Figure:
    """Decode speed after a prompt of so many."""
    read = partial(decode_speed, tokens=tokens)
    names = (f"{SPEED}.{tokens}", SPEED)
    return Figure(LATER, f"After a prompt of {tokens}", "tok/s", read, names)


def _latency_at(candidate: Candidate, tokens: int) -> Latency | None:
    return next((one for one in candidate.measurement.latency if one.prompt_tokens == tokens), None)


def _loading(read: Callable[[Loading], float]) -> Read:
    def read_candidate(candidate: Candidate) -> Reading | None:
        found = candidate.measurement.loading
        return Reading(read(found)) if found else None

    return read_candidate


FAITHFUL = "Fidelity to the float model"
STAND_IN = "Simulated or emulated: not the device"
FIRST = "Time to first token"
LATER = "Decode speed"
SPEED = "decode_tokens_per_second"
LOAD = "Loading and memory"

SIZE = Figure("Size", "Package on disk", "MB", lambda item: Reading(item.package_bytes / 1e6), ("package_mb",))

KL_WEIGHTS = Figure(FAITHFUL, "KL, weights", "nats/token", fidelity("weights", mean_kl), ("weights.kl_mean",))
KL_DEPLOYED = Figure(FAITHFUL, "KL, deployed", "nats/token", fidelity("deployed", mean_kl), ("deployed.kl_mean",))
KL_P99 = Figure(
    FAITHFUL,
    "KL, 99th percentile",
    "nats/token",
    fidelity("deployed", lambda found: Reading(found.kl_p99, n=found.positions)),
    ("deployed.kl_p99",),
)
KL_PREFILL = Figure(
    FAITHFUL, "KL, prefill", "nats/token", fidelity("deployed", lambda found: Reading(found.kl_prefill))
)
KL_DECODE = Figure(FAITHFUL, "KL, decode", "nats/token", fidelity("deployed", decode_kl))
TOP1 = Figure(
    FAITHFUL,
    "Top-1 agreement",
    "%",
    fidelity("deployed", lambda found: Reading(found.top1, n=found.positions)),
    ("deployed.top1",),
)
PERPLEXITY = Figure(
    FAITHFUL,
    "Perplexity, package / float",
    "ratio",
    fidelity("deployed", lambda found: Reading(found.perplexity_ratio, n=found.positions)),
    ("deployed.perplexity_ratio",),
    RATIO_DIGITS,
)
FIDELITY = (KL_WEIGHTS, KL_DEPLOYED, KL_P99, KL_PREFILL, KL_DECODE, TOP1, PERPLEXITY)

DEVICE = (
    Figure(STAND_IN, "KL from the float model", "nats/token", stand_in(mean_kl)),
    Figure(
        STAND_IN,
        "Top-1 with the float model",
        "%",
        stand_in(lambda found: Reading(found.top1, n=found.positions)),
    ),
    Figure(STAND_IN, "KL from this CPU, same weights", "nats/token", device_kl, ("device.kl_mean",)),
    Figure(STAND_IN, "Top-1 with this CPU, same weights", "%", device_top1, ("device.top1",)),
)
EDGES = (
    Figure(STAND_IN, "Largest KL at the edges of static shapes", "nats/token", boundary_kl, ("device.boundary_kl",)),
)

LOADING = (
    Figure(LOAD, "Load, cold", "s", _loading(lambda found: found.cold_s), ("load_cold_s",)),
    Figure(LOAD, "Load, warm", "s", _loading(lambda found: found.warm_s), ("load_warm_s",)),
    Figure(LOAD, "Peak memory", "MB", _loading(lambda found: found.peak_memory_bytes / 1e6), ("peak_memory_mb",)),
)
