"""Drift, spread and soak: what is decided by them, and that none of them passes unmeasured."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.gates import Gates
from targets.sensors import SensorReading
from targets.status import Verdict
from tests.conftest import Packages
from validate.judge import judge
from validate.latency import sampled
from validate.load_probe import Asked, measure_restarts
from validate.measurement import Latency
from validate.package_measurement import Measurement
from validate.report import GateResult
from validate.soak import Subject, soak
from validate.soak_figures import Request, Soak, SoakPlan, Surroundings, cut, memory_growth, summarise, token_rate
from validate.steadiness import Conditions, Process, Restarts, drift_factor, drift_of, spread_of

GATES = Gates(kl_mean_max=1, top1_min=0, perplexity_ratio_max=9, runtime_kl_gap_max=1)
STILL = Conditions("performance", "tsc", SensorReading(throttled=3), SensorReading(throttled=5))


def latency(*ttft_ms: float, tpot_ms: float = 10.0) -> Latency:
    return Latency(128, 4, sampled(ttft_ms), sampled([tpot_ms] * 3), (tpot_ms,) * 12)


def gate(measurement: Measurement, gates: Gates, name: str) -> GateResult | None:
    return {each.name: each for each in judge(measurement, 1, gates)}.get(name)


def verdict(measurement: Measurement, gates: Gates, name: str) -> Verdict:
    found = gate(measurement, gates, name)
    assert found is not None
    return found.verdict


def restarts(*ttft_ms: float) -> Restarts:
    processes = tuple(Process(False, 1.0, 2.0, 30.0, each, 5.0) for each in ttft_ms)
    return Restarts(128, 16, 3, processes, spread_of(ttft_ms), spread_of([5.0] * len(ttft_ms)))


def steady_requests(count: int, seconds: float = 1.0, leak: int = 0) -> list[Request]:
    return [
        Request(
            (index + 1) * seconds, 20.0, (10.0,) * 3, 10**9 + index * leak, SensorReading(50.0, "cpu", 2000.0), None
        )
        for index in range(count)
    ]


def soaked(requests: list[Request], idle_watts: float | None = None) -> Soak:
    return summarise(SoakPlan(), requests, Surroundings("2026-01-01", "d" * 64, "no sensor", idle_watts, STILL))


def test_drift_is_late_rounds_over_early_ones_whatever_one_round_says() -> None:
    assert drift_of([latency(10, 10, 99, 12, 12)]) == pytest.approx(1.2)
    assert drift_of([latency(10, 10, 10, 10), latency(10, 10, 12, 12), latency(1, 1, 9, 9)]) == pytest.approx(1.2)
    assert drift_of([latency(10)]) is None
    assert drift_factor(0.8) == drift_factor(1.25) == 1.25
    assert drift_factor(0.0) == float("inf")


@pytest.mark.parametrize("drift", [0.8, 1.25])
def test_a_machine_that_drifts_never_passes_and_never_fails_a_package(drift: float) -> None:
    gates = dataclasses.replace(GATES, drift_max=1.1)
    found = gate(Measurement(drift=drift), gates, "latency.drift")
    assert found is not None
    assert (found.verdict, found.value) == (Verdict.INCOMPLETE, 1.25)
    assert str(found.reason).startswith("not comparable")
    assert verdict(Measurement(drift=1.05), gates, "latency.drift") is Verdict.PASS
    assert verdict(Measurement(), gates, "latency.drift") is Verdict.INCOMPLETE
    assert gate(Measurement(drift=drift), GATES, "latency.drift") is None


def test_latency_that_passes_only_if_the_drift_is_forgotten_is_incomplete() -> None:
    timed = (latency(100, 100, 100, tpot_ms=50.0),)
    tight = dataclasses.replace(GATES, ttft_ms_max={128: 110.0}, decode_tokens_per_second_min=18.0)
    wide = dataclasses.replace(GATES, ttft_ms_max={128: 200.0}, decode_tokens_per_second_min=10.0)
    for name in ("ttft_ms.128", "decode_tokens_per_second"):
        assert verdict(Measurement(latency=timed, drift=1.05), tight, name) is Verdict.PASS
        assert verdict(Measurement(latency=timed, drift=1.2), tight, name) is Verdict.INCOMPLETE
        assert verdict(Measurement(latency=timed, drift=1.2), wide, name) is Verdict.PASS
    allowed = dataclasses.replace(tight, drift_max=1.3)
    assert verdict(Measurement(latency=timed, drift=1.2), allowed, "ttft_ms.128") is Verdict.PASS
    over = dataclasses.replace(GATES, ttft_ms_max={128: 90.0})
    assert verdict(Measurement(latency=timed, drift=1.2), over, "ttft_ms.128") is Verdict.FAIL


def test_spread_is_the_farthest_process_and_takes_three() -> None:
    assert spread_of([100, 100, 90]) == pytest.approx(0.1)
    assert spread_of([100, 104]) is None
    gates = dataclasses.replace(GATES, spread_max=0.05)
    assert verdict(Measurement(restarts=restarts(100, 104, 98)), gates, "latency.spread") is Verdict.PASS
    assert verdict(Measurement(restarts=restarts(100, 106, 100)), gates, "latency.spread") is Verdict.FAIL
    found = gate(Measurement(restarts=restarts(100, 100)), gates, "latency.spread")
    assert found is not None
    assert (found.verdict, found.reason) == (
        Verdict.INCOMPLETE,
        "not enough process restarts for a spread (n = 2, need 3)",
    )
    assert verdict(Measurement(), gates, "latency.spread") is Verdict.INCOMPLETE


def test_a_slowing_device_loses_rate_and_a_steady_one_does_not() -> None:
    assert soaked(steady_requests(400, 5.0)).rate_ratio == pytest.approx(1.0)
    ends = itertools.accumulate(np.linspace(5.0, 10.0, 240))
    slowing = [dataclasses.replace(one, end_s=end) for one, end in zip(steady_requests(240), ends, strict=True)]
    found = soaked(slowing)
    assert found.window_s == pytest.approx(300)
    assert found.rate_ratio == pytest.approx(0.57, abs=0.02)
    assert found.throttled == 2


@settings(deadline=None)
@given(st.lists(st.floats(0.2, 3.0), min_size=2, max_size=40), st.floats(0.1, 0.9))
def test_tokens_are_counted_once_wherever_time_is_cut(lengths: list[float], part: float) -> None:
    ends = list(itertools.accumulate(lengths))
    requests = [dataclasses.replace(steady_requests(1)[0], end_s=end) for end in ends]
    total, place = ends[-1], part * ends[-1]
    counted = token_rate(requests, 0, place) * place + token_rate(requests, place, total) * (total - place)
    assert counted == pytest.approx(4 * len(lengths))
    slices = cut(requests)
    assert sum(each.requests for each in slices) == len(requests)
    assert len(slices) <= 120
    assert slices[-1].end_s == pytest.approx(total, abs=1e-3)


def test_a_leak_shows_and_a_jump_does_not() -> None:
    leaking = memory_growth([each.memory_bytes for each in steady_requests(1000, leak=10_000)])
    assert leaking == pytest.approx(0.00994, rel=0.01)
    jumped = [10**9] * 480 + [1_100_000_000] * 520
    assert memory_growth(jumped) == pytest.approx(0.0)
    assert memory_growth([10**9] * 10) is None


def test_energy_per_token_leaves_out_what_an_idle_machine_draws() -> None:
    requests = [dataclasses.replace(one, joules=20.0 * one.end_s) for one in steady_requests(100)]
    found = soaked(requests, idle_watts=4.0)
    assert found.joules == 2000.0
    assert found.joules_per_token == pytest.approx(16 / 4)
    assert found.slices[-1].watts == pytest.approx(20.0)
    assert soaked(steady_requests(100)).joules_per_token is None


def test_a_soak_that_was_not_run_or_too_short_never_passes() -> None:
    gates = dataclasses.replace(GATES, soak_rate_ratio_min=0.9, memory_growth_max=0.01)
    long, short = soaked(steady_requests(380, 5.0)), soaked(steady_requests(120, 5.0))
    for name in ("soak.rate_ratio", "soak.memory_growth"):
        assert verdict(Measurement(), gates, name) is Verdict.INCOMPLETE
        assert verdict(Measurement(soak=long), gates, name) is Verdict.PASS
        assert verdict(Measurement(soak=short), gates, name) is Verdict.INCOMPLETE
        assert gate(Measurement(soak=long), GATES, name) is None
    enough = dataclasses.replace(gates, soak_minutes_min=5)
    assert verdict(Measurement(soak=short), enough, "soak.rate_ratio") is Verdict.PASS
    leaking = soaked(steady_requests(120, 5.0, leak=100_000))
    assert verdict(Measurement(soak=leaking), gates, "soak.memory_growth") is Verdict.FAIL


def test_a_soak_has_the_tail_that_a_measurement_has_not() -> None:
    found = {each.share: each for each in soaked(steady_requests(700)).ttft_percentiles}
    assert found[0.99].value == pytest.approx(20.0)
    assert found[0.999].value is None


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_real_package_under_load(tiny_packages: Packages, backend: str, tmp_path: Path) -> None:
    package = tiny_packages["llama", "w8-sym", backend]
    heard: list[float] = []
    subject = Subject(backend, package.folder, package.settings, "e" * 64)
    plan = SoakPlan(minutes=0.03, prompt_tokens=16, new_tokens=8, idle_s=0.1)
    found = soak(subject, plan, lambda done, total: heard.append(done / total), lambda: "now")
    assert found.requests == len(heard) > 3
    assert found.tokens == 9 * found.requests
    assert heard == sorted(heard)
    assert 1.5 < 60 * found.minutes < 20
    assert found.rate_first > 0
    assert found.memory_bytes > 20e6
    assert sum(each.requests for each in found.slices) == found.requests
    assert found.conditions.clock_source
    json.dumps(dataclasses.asdict(found), allow_nan=False)


def test_fresh_processes_tell_first_and_later_requests_apart(tiny_packages: Packages) -> None:
    package = tiny_packages["llama", "w8-sym", "openvino"]
    loading, found = measure_restarts("openvino", package.folder, package.settings, Asked(16, 4, 2, 64), 3)
    assert len(found.processes) == 3
    assert found.spread is not None
    assert [each.cold_cache for each in found.processes] == [loading.cold_is_cold, False, False]
    for process in found.processes:
        assert process.start_to_first_token_s > process.load_s > 0
        assert process.first_ttft_ms > 0
    assert (loading.prompt_tokens, loading.cold_s) == (64, found.processes[0].load_s)
    assert loading.peak_memory_bytes > 20e6
