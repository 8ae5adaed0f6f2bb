"""Two reports compared: what is the same reads so, what is worse fails, and what cannot be compared never passes."""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tapeout.baseline import against, open_report
from tapeout.cli import main
from targets.errors import UsageError
from targets.regression import Regression
from targets.status import Verdict
from targets.target import load_target
from tests.sample_report import passing_report
from validate.change import Change, Delta, PackageChange
from validate.compare_reports import compare_reports
from validate.latency import sampled
from validate.measurement import Fidelity, WindowFidelity
from validate.package_measurement import Measurement
from validate.render_change import change_lines, change_markdown
from validate.report import Candidate, Report, to_json
from validate.significance import Outcome


def with_texts(fidelity: Fidelity) -> Fidelity:
    """Eight texts around the mean."""
    shares = (0.8, 0.9, 0.95, 1.0, 1.0, 1.05, 1.1, 1.2)
    windows = tuple(WindowFidelity(765, fidelity.kl_mean * share, fidelity.top1) for share in shares)
    return replace(fidelity, windows=windows)


def alter(report: Report, backend: str, **changes: Any) -> Report:
    """The report with another measurement, or another field, of one runtime's package."""
    device = report.devices[0]
    runtimes = []
    for runtime in device.runtimes:
        candidates = tuple(
            replace(each, **changes) if each.carried and runtime.backend == backend else each
            for each in runtime.candidates
        )
        runtimes.append(replace(runtime, candidates=candidates))
    return replace(report, devices=(replace(device, runtimes=tuple(runtimes)), *report.devices[1:]))


def package_of(report: Report, backend: str) -> Candidate:
    (found,) = [runtime.carried for runtime in report.devices[0].runtimes if runtime.backend == backend]
    assert found is not None
    return found


def prepared() -> Report:
    """The sample report with texts to pair."""
    report = passing_report()
    for backend in ("openvino", "onnxruntime"):
        measured = package_of(report, backend).measurement
        fidelity = {name: with_texts(each) for name, each in measured.fidelity.items()}
        report = alter(report, backend, measurement=replace(measured, fidelity=fidelity))
    return report


BASE = prepared()


def slower(measurement: Measurement, factor: float) -> Measurement:
    """Every time multiplied."""
    latency = tuple(
        replace(
            each,
            ttft_ms=sampled([factor * sample for sample in each.ttft_ms.samples]),
            tpot_ms=sampled([factor * sample for sample in each.tpot_ms.samples]),
        )
        for each in measurement.latency
    )
    return replace(measurement, latency=latency)


def compared(after: Report, before: Report = BASE, across: tuple[str, ...] = ()) -> Change:
    return compare_reports(before, after, Regression(), across)


def openvino(change: Change) -> PackageChange:
    (found,) = [package for package in change.packages if package.backend == "openvino"]
    return found


def delta(change: Change, name: str) -> Delta:
    (found,) = [each for each in openvino(change).deltas if each.name == name]
    return found


def measured(report: Report = BASE) -> Measurement:
    return package_of(report, "openvino").measurement


def test_a_report_is_the_same_as_itself() -> None:
    change = compared(BASE)
    assert not change.regressed
    assert {package.weights for package in change.packages} == {"identical"}
    for package in change.packages:
        assert package.deltas
        assert {each.outcome for each in package.deltas} == {Outcome.SAME}
        assert {each.verdict for each in package.deltas} == {Verdict.PASS, None}


@pytest.mark.parametrize(
    ("factor", "outcome", "verdict"),
    [
        (1.03, Outcome.SAME, Verdict.PASS),
        (1.3, Outcome.WORSE, Verdict.FAIL),
        (0.8, Outcome.BETTER, Verdict.PASS),
    ],
)
def test_times_are_worse_only_by_more_than_noise(factor: float, outcome: Outcome, verdict: Verdict) -> None:
    change = compared(alter(BASE, "openvino", measurement=slower(measured(), factor)))
    for name in ("ttft_ms.512", "tpot_ms.32"):
        found = delta(change, name)
        assert (found.outcome, found.verdict) == (outcome, verdict)
        assert found.change == pytest.approx(factor, rel=1e-4)
        assert found.low is not None
        assert found.high is not None
        assert found.low <= factor <= found.high
    assert change.regressed == (verdict is Verdict.FAIL)


def test_beyond_the_bound_but_within_noise_is_incomplete() -> None:
    noisy = replace(measured().latency[0], ttft_ms=sampled([10, 90, 20, 80, 30, 70, 40, 60, 50]))
    wide = replace(noisy, ttft_ms=sampled([15, 95, 25, 85, 35, 75, 45, 65, 60]))
    before = alter(BASE, "openvino", measurement=replace(measured(), latency=(noisy,)))
    found = delta(
        compared(alter(BASE, "openvino", measurement=replace(measured(), latency=(wide,))), before), "ttft_ms.32"
    )
    assert found.change == pytest.approx(1.2)
    assert (found.outcome, found.verdict) == (Outcome.SAME, Verdict.INCOMPLETE)
    assert "noise" in str(found.why)


def test_kl_is_paired_text_by_text() -> None:
    fidelity = measured().fidelity["deployed"]
    worse = tuple(replace(each, kl_mean=1.3 * each.kl_mean) for each in fidelity.windows)
    after = replace(fidelity, kl_mean=1.3 * fidelity.kl_mean, windows=worse)
    change = compared(
        alter(BASE, "openvino", measurement=replace(measured(), fidelity={**measured().fidelity, "deployed": after}))
    )
    found = delta(change, "deployed.kl_mean")
    assert (found.outcome, found.verdict) == (Outcome.WORSE, Verdict.FAIL)
    assert found.change == pytest.approx(1.3)
    assert delta(change, "weights.kl_mean").outcome is Outcome.SAME
    # As much on average, in one text alone: the texts do not agree that it is worse.
    once = (
        *fidelity.windows[:7],
        replace(fidelity.windows[7], kl_mean=fidelity.windows[7].kl_mean + 2.4 * fidelity.kl_mean),
    )
    uneven = replace(fidelity, kl_mean=1.3 * fidelity.kl_mean, windows=once)
    change = compared(
        alter(BASE, "openvino", measurement=replace(measured(), fidelity={**measured().fidelity, "deployed": uneven}))
    )
    assert delta(change, "deployed.kl_mean").verdict is Verdict.INCOMPLETE


def test_agreement_that_falls_is_worse() -> None:
    fidelity = measured().fidelity["deployed"]
    fewer = tuple(replace(each, top1=each.top1 - 0.02) for each in fidelity.windows)
    after = replace(fidelity, top1=fidelity.top1 - 0.02, windows=fewer)
    found = delta(
        compared(
            alter(
                BASE, "openvino", measurement=replace(measured(), fidelity={**measured().fidelity, "deployed": after})
            )
        ),
        "deployed.top1",
    )
    assert (found.kind, found.outcome, found.verdict) == ("difference", Outcome.WORSE, Verdict.FAIL)


@pytest.mark.parametrize(
    ("changed", "across", "why"),
    [
        ({"host": {**measured().host, "cpu_model": "Another"}}, "host", "another host"),
        ({"host": {**measured().host, "governor": "powersave"}}, "governor", "another governor"),
        ({"threads": 8}, "threads", "8 threads, 2 before"),
        ({"environment": {"openvino": "2027.1"}}, "versions", "another runtime version"),
        ({"drift": 0.7}, "drift", "drifted by a factor of 1.43 now"),
    ],
)
def test_times_of_unlike_machines_are_not_compared_unless_asked(changed: dict[str, Any], across: str, why: str) -> None:
    after = alter(BASE, "openvino", measurement=replace(slower(measured(), 3.0), **changed))
    change = compared(after)
    found = delta(change, "ttft_ms.512")
    assert (found.outcome, found.verdict) == (Outcome.NOT_COMPARABLE, Verdict.INCOMPLETE)
    assert why in str(found.why)
    assert not change.regressed
    assert delta(change, "deployed.kl_mean").outcome is Outcome.SAME
    assert delta(compared(after, across=(across,)), "ttft_ms.512").verdict is Verdict.FAIL


def test_few_rounds_and_other_texts_are_not_compared() -> None:
    few = replace(measured().latency[0], ttft_ms=sampled([1.0, 2.0]))
    change = compared(alter(BASE, "openvino", measurement=replace(measured(), latency=(few, *measured().latency[1:]))))
    assert delta(change, "ttft_ms.32").outcome is Outcome.NOT_COMPARABLE
    assert "not enough rounds" in str(delta(change, "ttft_ms.32").why)
    other = compared(replace(BASE, golden={**BASE.golden, "text_digest": "0" * 64}))
    assert delta(other, "deployed.kl_mean").why == "another golden text"
    assert delta(other, "package_mb").verdict is Verdict.PASS


def test_size_weights_and_what_is_gone() -> None:
    size = int(1.06 * package_of(BASE, "openvino").package_bytes)
    change = compared(alter(BASE, "openvino", package_bytes=size, weights_digest="0" * 64))
    assert delta(change, "package_mb").verdict is Verdict.FAIL
    assert openvino(change).weights == "changed"
    device = BASE.devices[0]
    gone = replace(BASE, devices=(replace(device, runtimes=device.runtimes[1:]),))
    assert openvino(compared(gone)).verdict_after is None
    assert compared(gone).regressed
    assert not compared(BASE, before=gone).regressed
    assert openvino(compared(BASE, before=gone)).weights == "new"
    assert compared(replace(BASE, devices=()), before=BASE).devices_removed == ("cpu",)


def test_a_baseline_makes_a_package_fail_that_passes_by_itself() -> None:
    target = load_target("ryzen")
    target = replace(target, devices=target.devices[:1])
    same = against(BASE, BASE, target)
    assert same.verdict is Verdict.PASS
    assert "regression.ttft_ms.512" in {gate.name for gate in package_of(same, "openvino").gates}
    worse = against(alter(BASE, "openvino", measurement=slower(measured(), 1.3)), BASE, target)
    runtime = worse.devices[0].runtimes[0]
    assert (worse.verdict, runtime.verdict, runtime.folder) == (Verdict.FAIL, Verdict.FAIL, "rejected/cpu-openvino")
    assert not package_of(worse, "openvino").ships
    assert "worse than the baseline" in runtime.reason
    assert worse.devices[0].runtimes[1].verdict is Verdict.PASS
    assert worse.change is not None
    assert worse.change.regressed
    moved = measured().host | {"cpu_model": "Another"}
    elsewhere = against(alter(BASE, "openvino", measurement=replace(measured(), host=moved)), BASE, target)
    assert elsewhere.verdict is Verdict.INCOMPLETE
    off = replace(target, regression=Regression(ttft_ratio_max=None, tpot_ratio_max=None, memory_ratio_max=None))
    assert (
        against(alter(BASE, "openvino", measurement=replace(measured(), host=moved)), BASE, off).verdict is Verdict.PASS
    )
    with pytest.raises(UsageError, match="the baseline is of cpu"):
        against(BASE, replace(BASE, target="cpu"), target)


def test_bounds_are_checked_and_named() -> None:
    with pytest.raises(UsageError, match=r"ttft_ratio_max = 0\.9"):
        Regression(ttft_ratio_max=0.9)
    with pytest.raises(UsageError, match=r"top1_loss_max = 1\.5"):
        Regression(top1_loss_max=1.5)


def test_diff_says_what_is_worse_and_ends_with_1(tmp_path: Path) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    before.write_text(to_json(BASE), encoding="utf-8")
    after.write_text(to_json(alter(BASE, "openvino", measurement=slower(measured(), 1.3))), encoding="utf-8")
    same = CliRunner().invoke(main, ["diff", str(before), str(before)])
    assert (same.exit_code, same.stderr) == (0, "")
    assert "nothing is worse" in same.stdout
    assert "weights identical" in same.stdout
    found = CliRunner().invoke(main, ["diff", str(before), str(after)])
    assert found.exit_code == 1
    assert "worse: cpu openvino: ttft_ms.512 ratio is 1.3, at most 1.1 is allowed" in found.stderr
    document = json.loads(CliRunner().invoke(main, ["diff", str(before), str(after), "--format", "json"]).stdout)
    assert document["regressed"] is True
    table = CliRunner().invoke(main, ["diff", str(before), str(after), "--format", "markdown"]).stdout
    assert "| Figure | Before, now | Outcome |" in table
    with pytest.raises(UsageError, match=r"holds no report\.json"):
        open_report(tmp_path)


def test_a_change_survives_a_report_and_both_renderings_show_every_figure() -> None:
    change = compared(alter(BASE, "openvino", measurement=slower(measured(), 1.3)))
    json.dumps(dataclasses.asdict(change), allow_nan=False)
    lines, table = list(change_lines(change)), change_markdown(change)
    assert len(lines) > 2 * len(openvino(change).deltas)
    assert table.count("\n| ") == sum(len(package.deltas) + 1 for package in change.packages)
