"""Drift, spread and soak -> gates; and a mark on latency that a drifting machine measured."""

import dataclasses
from collections.abc import Iterator, Sequence

from targets.gates import DRIFT_MAX, SOAK_MINUTES_MIN, Gates
from targets.status import Verdict
from validate.package_measurement import Measurement
from validate.report import GateResult
from validate.steadiness import LEAST_PROCESSES, drift_factor

NOT_COMPARABLE = "not comparable"
LATENCY_GATES = ("ttft_ms", "decode_tokens_per_second")


def judge_drift(measurement: Measurement, gates: Gates) -> Iterator[GateResult]:
    """Where the target declares a bound: PASS, or INCOMPLETE, since a drift says nothing about the package."""
    bound = gates.drift_max
    if bound is None:
        return
    if measurement.drift is None:
        yield GateResult("latency.drift", Verdict.INCOMPLETE, None, bound, "max", "", "not measured")
        return
    factor = drift_factor(measurement.drift)
    if factor <= bound:
        yield GateResult("latency.drift", Verdict.PASS, factor, bound, "max", "")
        return
    reason = f"{NOT_COMPARABLE}: the machine drifted by a factor of {factor:.3g} while it was measured"
    yield GateResult("latency.drift", Verdict.INCOMPLETE, factor, bound, "max", "", reason)


def mark_drifted(results: Sequence[GateResult], measurement: Measurement, gates: Gates) -> list[GateResult]:
    """A latency PASS that the drift could turn into a FAIL is INCOMPLETE: it is not comparable with its bound."""
    if measurement.drift is None:
        return list(results)
    factor = drift_factor(measurement.drift)
    if factor <= (DRIFT_MAX if gates.drift_max is None else gates.drift_max):
        return list(results)
    return [mark(result, factor) for result in results]


def mark(result: GateResult, factor: float) -> GateResult:
    """The result, INCOMPLETE where a figure worse by `factor` would not pass."""
    if result.name.partition(".")[0] not in LATENCY_GATES or result.verdict is not Verdict.PASS or result.value is None:
        return result
    lower = result.direction == "max"
    if result.value * factor <= result.bound if lower else result.value / factor >= result.bound:
        return result
    reason = f"{NOT_COMPARABLE}: the machine drifted by a factor of {factor:.3g}, more than this figure's margin"
    return dataclasses.replace(result, verdict=Verdict.INCOMPLETE, reason=reason)


def judge_spread(measurement: Measurement, gates: Gates) -> Iterator[GateResult]:
    """Latency in fresh processes, held against the spread that the product allows."""
    bound = gates.spread_max
    if bound is None:
        return
    restarts = measurement.restarts
    spread = restarts.spread if restarts else None
    if spread is None:
        count = len(restarts.processes) if restarts else 0
        reason = f"not enough process restarts for a spread (n = {count}, need {LEAST_PROCESSES})"
        yield GateResult("latency.spread", Verdict.INCOMPLETE, None, bound, "max", "", reason)
    elif spread <= bound:
        yield GateResult("latency.spread", Verdict.PASS, spread, bound, "max", "")
    else:
        reason = f"latency differs by up to {100 * spread:.3g} % from process to process"
        yield GateResult("latency.spread", Verdict.FAIL, spread, bound, "max", "", reason)


def judge_soak(measurement: Measurement, gates: Gates) -> Iterator[GateResult]:
    """What is left of the token rate, and what memory grew, over a soak of the declared length."""
    soak = measurement.soak
    ratio, growth = (soak.rate_ratio, soak.memory_growth) if soak else (None, None)
    least = SOAK_MINUTES_MIN if gates.soak_minutes_min is None else gates.soak_minutes_min
    for name, value, bound, direction in (
        ("soak.rate_ratio", ratio, gates.soak_rate_ratio_min, "min"),
        ("soak.memory_growth", growth, gates.memory_growth_max, "max"),
    ):
        if bound is None:
            continue
        if soak is None or value is None:
            reason = "not soaked: run tapeout soak" if soak is None else "too few requests for a slope"
            yield GateResult(name, Verdict.INCOMPLETE, None, bound, direction, "", reason)
        elif not (value >= bound if direction == "min" else value <= bound):
            wanted = "at least" if direction == "min" else "at most"
            reason = f"{name} is {value:.4g}, {wanted} {bound:g} is allowed"
            yield GateResult(name, Verdict.FAIL, value, bound, direction, "", reason)
        elif soak.minutes < least:
            reason = f"soaked for {soak.minutes:.3g} minutes, {least:g} are asked"
            yield GateResult(name, Verdict.INCOMPLETE, value, bound, direction, "", reason)
        else:
            yield GateResult(name, Verdict.PASS, value, bound, direction, "")
