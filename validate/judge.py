"""Measurement + gates -> verdicts: which package ships, and why."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from targets.gates import Gates
from targets.status import Verdict, combine
from validate.boundaries import largest_kl
from validate.judge_steadiness import judge_drift, judge_soak, judge_spread, mark_drifted
from validate.measurement import Fidelity, Placement
from validate.package_measurement import Measurement
from validate.report import GateResult

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Bound:
    """One gate before it is judged: a figure, what it must reach, and which way."""

    name: str
    value: float | None
    bound: float | None
    direction: str
    unit: str


def judge(
    measurement: Measurement,
    package_bytes: int,
    gates: Gates,
    other_kl: float | None = None,
    off_device: Sequence[str] = (),
) -> tuple[GateResult, ...]:
    """Hold every figure against its gate; a gate whose target sets no bound is no gate.

    Args:
        measurement: of one package.
        package_bytes: its size.
        gates: of its precision class.
        other_kl: mean KL (`weights`) of the same scheme in the device's other runtime, None when there is none.
        off_device: operator types that the product allows outside the device.
    """
    bounds = [*fidelity_bounds(measurement, gates), *runtime_gap(measurement, gates, other_kl)]
    bounds += device_gap(measurement, gates)
    bounds += [*answer_bounds(measurement, gates), *felt_bounds(measurement, gates)]
    bounds += [*cache_bounds(measurement, gates), *latency_bounds(measurement, gates)]
    bounds += resource_bounds(measurement, package_bytes, gates)
    judged = [judge_bound(bound, bound.bound) for bound in bounds if bound.bound is not None]
    if gates.vehicle_loss_max is not None:
        judged.append(judge_loss(measurement, gates.vehicle_loss_max))
    judged = mark_drifted(judged, measurement, gates)
    judged += [*judge_drift(measurement, gates), *judge_spread(measurement, gates), *judge_soak(measurement, gates)]
    return (*judged, judge_parity(measurement), judge_placement(measurement, off_device))


def judge_bound(bound: Bound, limit: float) -> GateResult:
    """PASS, FAIL or INCOMPLETE; a figure that is not a number fails."""
    if bound.value is None:
        return GateResult(bound.name, Verdict.INCOMPLETE, None, limit, bound.direction, bound.unit, NOT_MEASURED)
    reached = bound.value <= limit if bound.direction == "max" else bound.value >= limit
    if reached:
        return GateResult(bound.name, Verdict.PASS, bound.value, limit, bound.direction, bound.unit)
    wanted = "at most" if bound.direction == "max" else "at least"
    reason = f"{bound.name} is {bound.value:.4g} {bound.unit}".rstrip() + f", {wanted} {limit:g} is allowed"
    return GateResult(bound.name, Verdict.FAIL, bound.value, limit, bound.direction, bound.unit, reason)


def fidelity_bounds(measurement: Measurement, gates: Gates) -> Iterator[Bound]:
    """KL, top-1 and perplexity in both settings."""
    for setting in ("weights", "deployed"):
        # What a stand-in computes on a few positions is judged by its distance from this CPU: it is not the device.
        here = setting == "weights" or not measurement.stand_in
        found: Fidelity | None = measurement.fidelity.get(setting) if here else None
        kl, p99, top1, ratio = (
            (found.kl_mean, found.kl_p99, found.top1, found.perplexity_ratio) if found else (None, None, None, None)
        )
        yield Bound(f"{setting}.kl_mean", kl, gates.kl_mean_max, "max", "nats")
        yield Bound(f"{setting}.kl_p99", p99, gates.kl_p99_max, "max", "nats")
        yield Bound(f"{setting}.top1", top1, gates.top1_min, "min", "")
        yield Bound(f"{setting}.perplexity_ratio", ratio, gates.perplexity_ratio_max, "max", "")


def runtime_gap(measurement: Measurement, gates: Gates, other_kl: float | None) -> Iterator[Bound]:
    """Distance of the two runtimes' KL on the same weights: a difference is a runtime's error."""
    ours = measurement.fidelity.get("weights")
    if other_kl is not None:
        gap = abs(ours.kl_mean - other_kl) if ours else None
        yield Bound("weights.runtime_kl_gap", gap, gates.runtime_kl_gap_max, "max", "nats")


def device_gap(measurement: Measurement, gates: Gates) -> Iterator[Bound]:
    """Distance of a stand-in's numerics from this CPU's with the same weights."""
    if measurement.stand_in:
        gap = measurement.device_gap
        kl, top1 = (gap.kl_mean, gap.top1) if gap else (None, None)
        yield Bound("device.kl_mean", kl, gates.device_kl_max, "max", "nats")
        yield Bound("device.top1", top1, gates.device_top1_min, "min", "")
    if measurement.stand_in and measurement.boundaries:
        yield Bound("device.boundary_kl", largest_kl(measurement.boundaries), gates.device_kl_max, "max", "nats")


def answer_bounds(measurement: Measurement, gates: Gates) -> Iterator[Bound]:
    """Total length of greedy answers over the float model's."""
    reference = sum(answer.reference_tokens for answer in measurement.answers)
    ratio = sum(answer.tokens for answer in measurement.answers) / reference if reference else None
    yield Bound("answers.length_ratio", ratio, gates.length_ratio_min, "min", "")
    yield Bound("answers.length_ratio", ratio, gates.length_ratio_max, "max", "")


def felt_bounds(measurement: Measurement, gates: Gates) -> Iterator[Bound]:
    """The in-vehicle suite and repetition, beside the float model."""
    felt = measurement.felt
    ranking, stability = (felt.ranking, felt.stability) if felt else (None, None)
    repeats = stability.repetition - stability.reference_repetition if stability else None
    yield Bound("vehicle.agreement", ranking.agreement if ranking else None, gates.vehicle_agreement_min, "min", "")
    yield Bound("answers.repetition", repeats, gates.repetition_max, "max", "")


def judge_loss(measurement: Measurement, limit: float) -> GateResult:
    """Non-inferiority in the in-vehicle suite: PASS when a loss beyond `limit` is ruled out with 95 % confidence.

    Where it is not, a part of the suite is INCOMPLETE, unless its whole interval lies beyond the limit: that is FAIL,
    and so is a loss that all requests do not rule out.
    """
    ranking = measurement.felt.ranking if measurement.felt else None
    if ranking is None:
        return GateResult("vehicle.loss", Verdict.INCOMPLETE, None, limit, "max", "", NOT_MEASURED)
    found = ranking.paired
    loss = max(-found.bound, 0.0)
    if loss <= limit:
        return GateResult("vehicle.loss", Verdict.PASS, loss, limit, "max", "")
    asked = f"{found.items} of {ranking.of} requests do not rule out a loss above {limit:g}: the bound is {loss:.3g}"
    if found.items < ranking.of and found.high > -limit:
        reason = f"{asked}; n = {found.needed} shows one of {found.margin:g}, and --suite asks them all"
        return GateResult("vehicle.loss", Verdict.INCOMPLETE, loss, limit, "max", "", reason)
    return GateResult("vehicle.loss", Verdict.FAIL, loss, limit, "max", "", asked)


def judge_parity(measurement: Measurement) -> GateResult:
    """No text that the runtime's tokenizer or template engine reads unlike the model's: a hard gate of every target."""
    parity = measurement.parity
    if parity is None:
        return GateResult("tokenizer.mismatches", Verdict.INCOMPLETE, None, 0.0, "max", "texts", NOT_MEASURED)
    if parity.total == 0:
        return GateResult("tokenizer.mismatches", Verdict.PASS, 0.0, 0.0, "max", "texts")
    first = parity.examples[0]
    reason = (
        f"the runtime's tokenizer reads {parity.total} of {parity.compared} texts unlike the model's,"
        f" first {first.ours!r} for {first.expected!r} ({first.category}, {first.kind})"
    )
    return GateResult("tokenizer.mismatches", Verdict.FAIL, float(parity.total), 0.0, "max", "texts", reason)


def cache_bounds(measurement: Measurement, gates: Gates) -> Iterator[Bound]:
    """What the shipped KV cache costs at long context and what it saves, where there is a narrower one to judge."""
    found = measurement.kv_cache
    if found is not None and found.positions:
        yield Bound("kv.kl_cost", found.shipped.kl_cost, gates.kv_kl_cost_max, "max", "nats")
        yield Bound("kv.saving", found.saving, gates.kv_saving_min, "min", "")


def latency_bounds(measurement: Measurement, gates: Gates) -> Iterator[Bound]:
    """TTFT at each bounded prompt length; decode speed at the longest prompt, where it is slowest."""
    ttft = {latency.prompt_tokens: latency.ttft_ms.median for latency in measurement.latency}
    for length, bound in sorted((gates.ttft_ms_max or {}).items()):
        yield Bound(f"ttft_ms.{length}", ttft.get(length), bound, "max", "ms")
    speed = min((1e3 / latency.tpot_ms.median for latency in measurement.latency), default=None)
    yield Bound("decode_tokens_per_second", speed, gates.decode_tokens_per_second_min, "min", "tokens/s")


def resource_bounds(measurement: Measurement, package_bytes: int, gates: Gates) -> Iterator[Bound]:
    """Memory, size and load time."""
    loading = measurement.loading
    memory, cold = (loading.peak_memory_bytes / 1e6, loading.cold_s) if loading else (None, None)
    yield Bound("peak_memory_mb", memory, gates.peak_memory_mb_max, "max", "MB")
    yield Bound("package_mb", package_bytes / 1e6, gates.package_mb_max, "max", "MB")
    yield Bound("load_cold_s", cold, gates.load_s_max, "max", "s")


def judge_placement(measurement: Measurement, off_device: Sequence[str]) -> GateResult:
    """Every operator of every session on the requested device, but for those that the product allows elsewhere.

    A runtime that falls back to another device says nothing by itself.
    """
    placements = measurement.placements
    if not placements:
        return GateResult("placement", Verdict.INCOMPLETE, None, 1.0, "min", "share", NOT_MEASURED)
    total = sum(sum(placement.operators.values()) for placement in placements)
    inside = sum(placement.operators.get(placement.requested, 0) for placement in placements)
    refused = [text for placement in placements for text in strayed(placement, off_device)]
    share = inside / total if total else 0.0
    if total and not refused:
        return GateResult("placement", Verdict.PASS, share, min(share, 1.0), "min", "share")
    reason = "; ".join(refused) or "the runtime names no operator"
    return GateResult("placement", Verdict.FAIL, share, 1.0, "min", "share", reason)


def strayed(placement: Placement, off_device: Sequence[str]) -> list[str]:
    """One sentence when operators are where they must not be."""
    wrong = {name: count for name, count in placement.elsewhere.items() if name not in off_device}
    outside = sum(count for device, count in placement.operators.items() if device != placement.requested)
    unnamed = outside - sum(placement.elsewhere.values())
    if unnamed > 0:
        wrong["of unnamed type"] = unnamed
    if not wrong:
        return []
    devices = ", ".join(f"{count} on {device}" for device, count in sorted(placement.operators.items()))
    names = ", ".join(f"{count} {name}" for name, count in sorted(wrong.items()))
    return [f"{placement.session} was asked for on {placement.requested}, the runtime put {devices}: {names} off it"]


def verdict_of(gates: tuple[GateResult, ...]) -> Verdict:
    """FAIL if any gate failed, PASS if all passed, else INCOMPLETE."""
    return combine(gate.verdict for gate in gates)
