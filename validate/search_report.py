"""What a search tried, and what each weight costs or is to blame for."""

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


@dataclass(frozen=True)
class BlamedWeight:
    """A weight that a diagnosis speaks of.

    Attributes:
        name: of the weight.
        error: norm of the error of its outputs over the norm of the float outputs, on the float model's inputs.
        kl_restored: KL of the whole, nats, with this weight alone put back to float; None when it was not tried.
    """

    name: str
    error: float
    kl_restored: float | None


@dataclass(frozen=True)
class PackageDiagnosis:
    """Which weights are to blame where every package of a runtime fails for its numbers.

    Attributes:
        device: name of the device.
        backend: of the runtime.
        recipe: of the package that came nearest.
        positions: of the golden text that were looked at.
        kl: mean KL of the quantized weights there, nats, before any runtime.
        broken: weights whose error is no rounding error.
        weights: the broken ones and those that were put back to float, largest error first.
    """

    device: str
    backend: str
    recipe: str
    positions: int
    kl: float
    broken: tuple[str, ...]
    weights: tuple[BlamedWeight, ...]


def diagnosis_sentences(found: PackageDiagnosis) -> list[str]:
    """What a diagnosis says: the broken weights, or, when none is, those whose rounding costs most."""
    where = f"{found.device}, {found.backend}, {found.recipe}"
    if found.broken:
        blamed = [weight for weight in found.weights if weight.name in found.broken]
        return [f"{where}: {weight.name} is broken: {blame(weight, found.kl)}" for weight in blamed]
    tried = [weight for weight in found.weights if weight.kl_restored is not None]
    ordered = sorted(tried, key=lambda weight: (weight.kl_restored or 0.0, weight.name))
    said = [f"{weight.name}: {blame(weight, found.kl)}" for weight in ordered]
    return [f"{where}: no weight is broken, rounding itself costs too much; most of it", *said]


def blame(weight: BlamedWeight, kl: float) -> str:
    """One weight's error, and what it costs."""
    cost = f"KL {kl:.3g}"
    if weight.kl_restored is not None:
        cost = f"KL falls from {kl:.3g} to {weight.kl_restored:.3g} with it alone in float"
    return f"its outputs are off by {100 * weight.error:.3g} % of their size, {cost}"
