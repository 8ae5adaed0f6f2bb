"""The figures that are measured on a package, without judgement."""

from dataclasses import dataclass, field

# Bootstrap resamples of a confidence interval, and its seed: the same samples give the same interval.
RESAMPLES = 10_000
SEED = 20260101


@dataclass(frozen=True)
class WindowFidelity:
    """Fidelity on one golden text.

    Attributes:
        positions: compared.
        kl_mean: mean KL divergence, nats per token.
        top1: share of positions where both name the same most likely token.
    """

    positions: int
    kl_mean: float
    top1: float


@dataclass(frozen=True)
class Fidelity:
    """How far a package's next-token distribution is from the float model's on the golden token set.

    Attributes:
        kl_mean: mean KL divergence, nats per token.
        kl_low: lower end of its 95 % confidence interval, resampled over windows.
        kl_high: upper end of it.
        kl_p99: 99th percentile of KL over positions.
        kl_prefill: mean KL of positions computed in one prefill.
        kl_decode: mean KL of positions computed one token at a time, with the KV cache; None when there are none.
        top1: share of positions where both name the same most likely token.
        perplexity: of the package on the golden text.
        perplexity_ratio: that over the float model's.
        positions: how many positions were compared.
        windows: each text by itself, so that another package on the same texts can be compared text by text.
    """

    kl_mean: float
    kl_low: float
    kl_high: float
    kl_p99: float
    kl_prefill: float
    kl_decode: float | None
    top1: float
    perplexity: float
    perplexity_ratio: float
    positions: int
    windows: tuple[WindowFidelity, ...] = ()


@dataclass(frozen=True)
class Sampled:
    """A figure with its samples.

    Attributes:
        median: of the samples.
        low: lower end of the median's 95 % confidence interval.
        high: upper end of it.
        samples: in the order they were taken.
    """

    median: float
    low: float
    high: float
    samples: tuple[float, ...]


@dataclass(frozen=True)
class Percentile:
    """One percentile, or how many samples it would take.

    Attributes:
        share: which one, 0.9 for the 90th.
        n: samples there are.
        needed: samples there have to be; with fewer, there is no figure.
        value: the sample percentile, in the unit of the samples.
        low: lower end of its 95 % confidence interval, resampled over requests.
        high: upper end of it.
        upper: the true percentile is below this with 99 % confidence, for any distribution of independent samples.
        resamples: behind `low` and `high`.
    """

    share: float
    n: int
    needed: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    upper: float | None = None
    resamples: int = 0


@dataclass(frozen=True)
class Latency:
    """Latency at one prompt length.

    Attributes:
        prompt_tokens: length of the prompt.
        new_tokens: tokens generated after the first.
        ttft_ms: time to first token, one sample a round.
        tpot_ms: time per output token after the first, one sample (the round's median) a round.
        intervals_ms: every time between two tokens, all rounds, `new_tokens` of each round after one another.
        ttft_percentiles: of the time to first token.
        interval_percentiles: of `intervals_ms`; a longer prompt is a deeper context, so each has its own.
    """

    prompt_tokens: int
    new_tokens: int
    ttft_ms: Sampled
    tpot_ms: Sampled
    intervals_ms: tuple[float, ...]
    ttft_percentiles: tuple[Percentile, ...] = ()
    interval_percentiles: tuple[Percentile, ...] = ()


@dataclass(frozen=True)
class Answer:
    """One greedy answer through the shipped runtime, beside the float model's.

    Attributes:
        prompt: what the user asks.
        reference: the float model's answer.
        text: the package's.
        agreed_tokens: tokens before the first that differs.
        reference_tokens: length of the float model's answer.
        tokens: length of the package's.
    """

    prompt: str
    reference: str
    text: str
    agreed_tokens: int
    reference_tokens: int
    tokens: int


@dataclass(frozen=True)
class Loading:
    """Loading in a process of its own.

    Attributes:
        cold_s: seconds until a prompt can be taken, the package's files not in the page cache.
        cold_is_cold: the files could be evicted from the page cache first; else `cold_s` is only a first load.
        warm_s: the same again, files cached.
        peak_memory_bytes: largest resident size after a prompt of `prompt_tokens` and a short answer.
        prompt_tokens: length of that prompt.
    """

    cold_s: float
    cold_is_cold: bool
    warm_s: float
    peak_memory_bytes: int
    prompt_tokens: int


@dataclass(frozen=True)
class Placement:
    """Where a runtime says that one of its sessions runs.

    Attributes:
        session: which of the package's sessions: `model`, or `prefill` and `decode`.
        requested: the device or execution provider asked for.
        operators: how many each device was given.
        weight_bytes: size of the weights each device was given.
        elsewhere: operators that went to another device than the requested one, by type.
    """

    session: str
    requested: str
    operators: dict[str, int]
    weight_bytes: dict[str, int]
    elsewhere: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class DeviceGap:
    """How far a simulator's or emulator's logits are from float32 on this host's CPU, with the same weights.

    Attributes:
        kl_mean: KL(CPU || stand-in), nats per token.
        kl_max: largest of any position.
        top1: share of positions where both name the same most likely token.
        positions: how many were compared.
    """

    kl_mean: float
    kl_max: float
    top1: float
    positions: int


@dataclass(frozen=True)
class BoundaryGap:
    """One prompt at the edge of a static shape, through the package as it ships, beside float32 on this host's CPU.

    Attributes:
        prompt_tokens: length of the prompt.
        kl_prompt: KL(CPU || stand-in) of the token after the prompt, nats.
        kl_decode: the same of the token after one more, decoded with the cache that the prompt left.
        agrees: whether both name the same most likely token, after both.
    """

    prompt_tokens: int
    kl_prompt: float
    kl_decode: float
    agrees: bool
