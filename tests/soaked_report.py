"""The sample report after a soak and beside a baseline."""

from dataclasses import replace

from targets.sensors import SensorReading
from targets.status import Verdict
from tests.sample_report import sample_report
from validate.change import Change, Delta, PackageChange
from validate.report import Report
from validate.significance import Outcome
from validate.soak_figures import SCHEMA_VERSION, Slice, Soak
from validate.steadiness import Conditions


def soak(rate: float) -> Soak:
    """Thirty minutes in which the machine warms up and slows down by 8 %."""
    falls = [rate * (0.92 + 0.08 * 0.95**place) for place in range(120)]
    slices = tuple(
        Slice(15.0 * (place + 1), 15, now, 98.0, 1000 / now, 450_000_000, 78 - 30 * 0.95**place, 3600.0, 21.0)
        for place, now in enumerate(falls)
    )
    around = Conditions("performance", "tsc", SensorReading(), SensorReading())
    return Soak(
        schema_version=SCHEMA_VERSION,
        taken="2026-11-21T21:37:00+00:00",
        package_digest="41ab" * 16,
        minutes=30.0,
        prompt_tokens=128,
        new_tokens=32,
        requests=1800,
        tokens=59_400,
        window_s=300.0,
        rate_first=rate,
        rate_last=rate * 0.92,
        rate_ratio=0.92,
        memory_bytes=451_000_000,
        memory_growth=0.001,
        throttled=3,
        energy_sensor="package-0",
        joules=38_000.0,
        idle_watts=4.1,
        joules_per_token=0.515,
        ttft_percentiles=(),
        interval_percentiles=(),
        slices=slices,
        conditions=around,
    )


def change() -> Change:
    """One figure worse beyond its bound, one better, one the same."""
    figures = (
        ("ttft_ms.512", "ms", 400.0, 409.0, 1.0225, 0.99, 1.05, Outcome.SAME),
        ("tpot_ms.512", "ms", 11.0, 13.2, 1.2, 1.15, 1.26, Outcome.WORSE),
        ("peak_memory_mb", "MB", 480.0, 451.0, 0.94, None, None, Outcome.BETTER),
    )
    deltas = tuple(
        Delta(
            name=name,
            unit=unit,
            before=before,
            after=after,
            kind="ratio",
            change=ratio,
            low=low,
            high=high,
            p_value=None,
            outcome=outcome,
            bound=1.05 if outcome is Outcome.WORSE else None,
            verdict=Verdict.FAIL if outcome is Outcome.WORSE else None,
        )
        for name, unit, before, after, ratio, low, high, outcome in figures
    )
    package = PackageChange(
        "cpu", "openvino", "w8-asym", "w8-asym", Verdict.PASS, Verdict.PASS, "identical", "changed", (), (), deltas
    )
    baseline = {
        "target": "ryzen",
        "model": "smollm2-135m",
        "created": "2026-10-01",
        "tapeout": "0.1",
        "verdict": "PASS",
    }
    return Change(baseline, (), (), 0.05, (package,))


def soaked_report() -> Report:
    """What ships has been kept busy, and there is a baseline."""
    report = sample_report()
    device = report.devices[0]
    runtimes = tuple(
        replace(
            runtime,
            candidates=tuple(
                replace(one, measurement=replace(one.measurement, soak=soak(70.0))) if one.ships else one
                for one in runtime.candidates
            ),
        )
        for runtime in device.runtimes
    )
    return replace(report, devices=(replace(device, runtimes=runtimes), *report.devices[1:]), change=change())
