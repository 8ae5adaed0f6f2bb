"""What a search for the smallest package tried, and what each weight of the model costs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WeightSensitivity:
    """What one weight costs.

    Attributes:
        name: of the weight.
        layer: index of its layer.
        projection: which weight of the layer, as `self_attn.q_proj`.
        kl: mean KL to the float model when only this weight is quantized, nats per token.
    """

    name: str
    layer: int
    projection: str
    kl: float


@dataclass(frozen=True)
class Tried:
    """A recipe that the search built and measured.

    Attributes:
        recipe: its name.
        weight_bytes: of all its weights.
        kl: mean KL of the weights, the worst of the device's runtimes; None when it could not be built.
        tpot_ms: time per output token at the longest prompt of the device's first runtime, or None.
        passed: no gate of any runtime failed.
        on_front: no other that was tried is as small, as near to the float model and as fast, and better in one.
        seconds: that trying it took.
        reason: why it did not pass; empty where it did.
    """

    recipe: str
    weight_bytes: int
    kl: float | None
    tpot_ms: float | None
    passed: bool
    on_front: bool
    seconds: float
    reason: str = ""


@dataclass(frozen=True)
class Expected:
    """A recipe that was not tried, and what is expected of it.

    Attributes:
        recipe: its name.
        weight_bytes: of all its weights.
        kl: mean KL of the weights, nats per token, corrected by what was measured on others.
    """

    recipe: str
    weight_bytes: int
    kl: float


@dataclass(frozen=True)
class SearchReport:
    """The search for the smallest package of one device.

    Attributes:
        device: its name.
        goal_kl: mean KL that was asked for.
        candidates: recipes that the device takes and that none dominated, before any was tried.
        tried: in the order in which they were.
        chosen: the smallest that passed, or None.
        stopped: why the search ended.
        nearest: when none passed, the one that was tried and has the least KL.
        guilty: when none passed, the weights that cost most of those that the nearest rounded to 4 bits, worst first.
        would_pass: when none passed, the smallest untried one that is expected to, byte budget or not; None where not
            even the safest is.
        weight_bytes_max: the byte budget, or None.
    """

    device: str
    goal_kl: float
    candidates: int
    tried: tuple[Tried, ...]
    chosen: str | None
    stopped: str
    nearest: str | None = None
    guilty: tuple[WeightSensitivity, ...] = ()
    would_pass: Expected | None = None
    weight_bytes_max: int | None = None
