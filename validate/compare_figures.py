"""One kind of figure of a package, before and after, each with the test that its samples allow."""

import dataclasses
from collections.abc import Collection, Iterator, Sequence

from targets.status import Verdict
from validate.change import Delta
from validate.measurement import Fidelity, Sampled
from validate.package_measurement import Measurement
from validate.report import Candidate
from validate.resampling import mean_difference, median_ratio
from validate.significance import ALPHA, Outcome, decide, holm, mann_whitney

MINIMAL_EFFECT = 0.05  # MLPerf Mobile asks results to replicate within 5 %
LEAST_TEXTS = 3
NOT_MEASURED = "not measured on both sides"


def fidelity_deltas(before: Measurement, after: Measurement, differs: str | None) -> list[Delta]:
    """KL and top-1 agreement, paired text by text; Holm's correction over all of them."""
    found = []
    for setting in ("weights", "deployed"):
        old, new = before.fidelity.get(setting), after.fidelity.get(setting)
        found.append(kl_delta(f"{setting}.kl_mean", old, new, differs))
        found.append(top1_delta(f"{setting}.top1", old, new, differs))
    return corrected(found)


def unpaired(before: Fidelity | None, after: Fidelity | None, differs: str | None) -> str | None:
    """Why two fidelities cannot be paired."""
    if before is None or after is None:
        return NOT_MEASURED
    if differs:
        return differs
    counts = [[window.positions for window in each.windows] for each in (before, after)]
    if counts[0] != counts[1]:
        return "other texts or positions"
    return None if len(counts[0]) >= LEAST_TEXTS else f"not enough texts (n = {len(counts[0])}, need {LEAST_TEXTS})"


def kl_delta(name: str, before: Fidelity | None, after: Fidelity | None, differs: str | None) -> Delta:
    """Mean KL: its ratio is judged, the paired difference says whether it is noise."""
    old, new = (each.kl_mean if each else None for each in (before, after))
    why = unpaired(before, after, differs)
    if why or before is None or after is None or not old or new is None:
        return incomparable(name, "nats", old, new, why or "no divergence before")
    weights = [window.positions for window in after.windows]
    pairs = zip(before.windows, after.windows, strict=True)
    difference = mean_difference([theirs.kl_mean - ours.kl_mean for ours, theirs in pairs], weights)
    ends = (1 + difference.low / old, 1 + difference.high / old)
    return Delta(name, "nats", old, new, "ratio", new / old, *ends, difference.p_value, Outcome.SAME)


def top1_delta(name: str, before: Fidelity | None, after: Fidelity | None, differs: str | None) -> Delta:
    """Top-1 agreement: the paired difference."""
    old, new = (each.top1 if each else None for each in (before, after))
    why = unpaired(before, after, differs)
    if why or before is None or after is None or old is None or new is None:
        return incomparable(name, "", old, new, why or NOT_MEASURED)
    weights = [window.positions for window in after.windows]
    pairs = zip(before.windows, after.windows, strict=True)
    found = mean_difference([theirs.top1 - ours.top1 for ours, theirs in pairs], weights)
    return Delta(name, "", old, new, "difference", new - old, found.low, found.high, found.p_value, Outcome.SAME)


def latency_deltas(before: Measurement, after: Measurement, differs: str | None) -> list[Delta]:
    """TTFT and time per token at each prompt length that both have; Holm's correction within each of the two."""
    old = {each.prompt_tokens: each for each in before.latency}
    new = {each.prompt_tokens: each for each in after.latency}
    lengths = sorted(old.keys() & new.keys())
    family = len(lengths)
    first = [sampled_delta(f"ttft_ms.{at}", old[at].ttft_ms, new[at].ttft_ms, differs, family) for at in lengths]
    later = [sampled_delta(f"tpot_ms.{at}", old[at].tpot_ms, new[at].tpot_ms, differs, family) for at in lengths]
    return [*corrected(first), *corrected(later)]


def sampled_delta(name: str, before: Sampled, after: Sampled, differs: str | None, family: int) -> Delta:
    """A median: bootstrap of the ratio, Mann-Whitney of the samples.

    Not comparable where so few rounds could not show any difference among the `family` of figures.
    """
    found = mann_whitney(before.samples, after.samples)
    if differs is None and found.least * family > ALPHA:
        counts = f"{len(before.samples)} and {len(after.samples)}"
        differs = f"not enough rounds to tell {family} figures from noise (n = {counts})"
    if differs:
        return incomparable(name, "ms", before.median, after.median, differs)
    ratio = median_ratio(after.samples, before.samples)
    ends = (ratio.low, ratio.high)
    return Delta(name, "ms", before.median, after.median, "ratio", ratio.value, *ends, found.p_value, Outcome.SAME)


def corrected(family: Sequence[Delta]) -> list[Delta]:
    """Outcomes of one family of figures, their p-values adjusted."""
    tested = [delta for delta in family if delta.p_value is not None]
    adjusted = dict(zip(map(id, tested), holm([delta.p_value or 0.0 for delta in tested]), strict=True))
    return [settled(delta, adjusted[id(delta)]) if id(delta) in adjusted else delta for delta in family]


def settled(delta: Delta, p_value: float) -> Delta:
    """The outcome of one figure by its adjusted p-value."""
    assert delta.change is not None  # noqa: S101 - a p-value stands beside a change
    if delta.kind == "ratio":
        outcome = decide(delta.change, p_value, MINIMAL_EFFECT, lower_is_better=True)
    elif p_value > ALPHA or delta.change == 0:
        outcome = Outcome.SAME
    else:
        outcome = Outcome.BETTER if delta.change > 0 else Outcome.WORSE
    return dataclasses.replace(delta, p_value=p_value, outcome=outcome)


def single_deltas(before: Candidate, after: Candidate, differs: str | None) -> Iterator[Delta]:
    """Size, which is exact, and memory, of which there is one sample: a change below the minimal effect is noise."""
    sizes = (before.package_bytes / 1e6, after.package_bytes / 1e6)
    exact = Outcome.SAME if sizes[0] == sizes[1] else Outcome.BETTER if sizes[1] < sizes[0] else Outcome.WORSE
    yield Delta("package_mb", "MB", *sizes, "ratio", sizes[1] / sizes[0], None, None, None, exact)
    loads = (before.measurement.loading, after.measurement.loading)
    old, new = (each.peak_memory_bytes / 1e6 if each else None for each in loads)
    if old is None or new is None or differs:
        yield incomparable("peak_memory_mb", "MB", old, new, differs or NOT_MEASURED)
        return
    outcome = decide(new / old, 0.0, MINIMAL_EFFECT, lower_is_better=True)
    yield Delta("peak_memory_mb", "MB", old, new, "ratio", new / old, None, None, None, outcome)


def gate_deltas(before: Candidate, after: Candidate, known: Collection[str], differs: str | None) -> Iterator[Delta]:
    """Every other gate that both have: by its verdict, and by its figure where that is the same."""
    old = {gate.name: gate for gate in before.gates}
    for gate in after.gates:
        if gate.name in known or gate.name not in old or gate.name.startswith("regression."):
            continue
        earlier = old[gate.name]
        if gate.value is None or earlier.value is None:
            yield incomparable(gate.name, gate.unit, earlier.value, gate.value, NOT_MEASURED)
            continue
        outcome, why = Outcome.SAME, None
        if {gate.verdict, earlier.verdict} == {Verdict.PASS, Verdict.FAIL}:
            outcome = Outcome.BETTER if gate.verdict is Verdict.PASS else Outcome.WORSE
        elif gate.value != earlier.value:
            outcome, why = Outcome.NOT_COMPARABLE, differs or "one sample each, and the same verdict"
        change = gate.value - earlier.value
        yield Delta(
            gate.name, gate.unit, earlier.value, gate.value, "difference", change, None, None, None, outcome, why
        )


def incomparable(name: str, unit: str, before: float | None, after: float | None, why: str) -> Delta:
    """A figure that nothing can be said of."""
    return Delta(name, unit, before, after, "ratio", None, None, None, None, Outcome.NOT_COMPARABLE, why)
