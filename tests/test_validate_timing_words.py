"""What is said of percentiles, drift and restarts; and the bundle's files, tiers and commands are named as they are."""

import shlex
from dataclasses import replace
from typing import Any

import pytest

from tapeout.bom import BOM
from tapeout.chain import CHAIN
from tapeout.cli_seal import verify
from tapeout.manifest import MANIFEST, SIGNATURE
from tapeout.provenance import PROVENANCE
from tapeout.tiers import CLOCK, Tier
from targets.errors import DeviceMissing, IntegrityError
from targets.target import load_target
from tests.sample_report import candidate, failing_report, sample_report
from validate import timing_words
from validate.judge import judge
from validate.measurement import Percentile
from validate.package_measurement import Measurement
from validate.percentiles import percentiles
from validate.render_html import render_html
from validate.render_markdown import render_markdown
from validate.report import Candidate
from validate.seal_words import BESIDE, CHECKS, TIERS
from validate.steadiness import spread_of
from validate.timing_words import drift_decision, percentile_rows, spread_decision, steadiness_sentences

GATES = load_target("ryzen").gates["int8"]


def judged(gates: dict[str, Any], **changes: Any) -> Candidate:
    """The sample's package that ships, with other figures, under the target's gates with others."""
    item = candidate("openvino", "w8-asym")
    measured = replace(item.measurement, **changes)
    return replace(item, measurement=measured, gates=judge(measured, 1, replace(GATES, **gates)))


def test_a_drift_within_its_bound_lets_the_times_stand() -> None:
    assert drift_decision(judged({}, drift=0.95)) == "within a factor of 1.1: the times stand as measured"
    assert "within a factor of 1.2" in drift_decision(judged({"drift_max": 1.2}, drift=1.15))


def test_a_drift_beyond_its_bound_names_the_gates_that_it_holds_open() -> None:
    slow = candidate("openvino", "w8-asym").measurement.latency[0]
    tight = {"ttft_ms_max": {32: slow.ttft_ms.median * 1.05}}
    assert drift_decision(judged(tight, drift=1.5)) == (
        "not comparable: a factor of 1.50, at most 1.1 is taken as steady; ttft_ms.32 INCOMPLETE for it"
    )
    assert drift_decision(judged({}, drift=1.15)).endswith("; no latency gate passes or fails by it")
    declared = drift_decision(judged({"drift_max": 1.05}, drift=1.08))
    assert declared.startswith("not comparable: a factor of 1.08, at most 1.05 ")
    assert "latency.drift" not in declared


def test_without_a_drift_nothing_is_said_to_be_steady() -> None:
    assert drift_decision(judged({}, drift=None)).startswith("not measured")


def test_a_spread_is_decided_by_its_limit_and_by_enough_processes() -> None:
    restarts = candidate("openvino", "w8-asym").measurement.restarts
    assert restarts is not None
    assert spread_decision(judged({})) == "no limit is set in the target"
    assert spread_decision(judged({"spread_max": 0.05})) == "PASS: at most 5.00 % is allowed"
    assert spread_decision(judged({"spread_max": 0.01})) == "FAIL: at most 1.00 % is allowed"
    two = replace(restarts, processes=restarts.processes[:2], ttft_spread=spread_of([1, 2]), tpot_spread=None)
    assert spread_decision(judged({}, restarts=two)) == "not enough process restarts for a spread (n = 2, need 3)"
    assert spread_decision(judged({}, restarts=None)) == "not measured"


def test_lengths_that_lack_the_same_share_a_row_and_others_do_not() -> None:
    few, other = percentiles([[1.0]] * 5), percentiles([[1.0]] * 6)
    enough = percentiles([[float(place)] for place in range(12)])
    latency = candidate("openvino", "w8-asym").measurement.latency
    sets = (few, few, other, enough)
    measured = Measurement(
        latency=tuple(
            replace(one, ttft_percentiles=found, interval_percentiles=())
            for one, found in zip(latency, sets, strict=True)
        )
    )
    rows = percentile_rows(measured)
    assert [(row.prompts, row.n) for row in rows] == [((32, 128), 5), ((512,), 6), ((1024,), 12)]
    assert [cell.span for cell in rows[0].cells] == [5]
    assert [cell.span for cell in rows[2].cells] == [1, 4]
    assert rows[2].cells[1].missing == "not enough samples for p90 (n = 12, need 64)"
    assert timing_words.percentile_heads(measured) == ["p50", "p90", "p95", "p99", "p99.9"]


def test_a_percentile_between_two_that_lack_samples_is_still_shown() -> None:
    """No measurement makes such a row; a report that was edited may."""
    mixed = (Percentile(0.5, 5, 11), Percentile(0.9, 5, 64, 7.0, 6.0, 8.0, 9.0, 10), Percentile(0.99, 5, 662))
    (one, *_) = candidate("openvino", "w8-asym").measurement.latency
    (row,) = percentile_rows(Measurement(latency=(replace(one, ttft_percentiles=mixed, interval_percentiles=()),)))
    assert [cell.found is not None for cell in row.cells] == [False, True, False]


def test_the_cold_start_is_that_of_a_process_whose_files_were_evicted() -> None:
    restarts = candidate("openvino", "w8-asym").measurement.restarts
    assert restarts is not None
    assert timing_words.cold_start_s(restarts) == 2.43
    assert timing_words.warm_start_s(restarts) == pytest.approx(1.60)
    never = replace(restarts, processes=tuple(replace(one, cold_cache=False) for one in restarts.processes))
    assert timing_words.cold_start_s(never) is None
    assert timing_words.warm_start_s(never) == pytest.approx(1.60)


def test_markdown_says_how_far_the_times_can_be_relied_on() -> None:
    text = render_markdown(sample_report()).replace("\\", "")
    for part in (
        "First token at a prompt of 1024 tokens: not enough samples for p50 (n = 9, need 11)",
        "not enough samples for p99 (n = 144, need 662)",
        "Drift 1.040: within a factor of 1.1: the times stand as measured",
        "from process start to the first token: cold 2.43 s, warm 1.60 s",
        "Spread over restarts 3.10 %: no limit is set in the target",
    ):
        assert text.count(f"{part}") == 2, part  # of both packages that ship, and no other
    assert "Process restarts: not measured." in render_markdown(failing_report())
    assert not list(steadiness_sentences(judged({}, latency=())))


def test_the_files_and_tiers_are_those_of_the_bundle() -> None:
    assert set(BESIDE) == {MANIFEST, CHAIN, BOM, PROVENANCE, SIGNATURE}
    assert list(TIERS) == [str(tier) for tier in Tier]
    assert {"report.json", "report.html", "report.md"} <= CLOCK  # "this report is one of these"


def test_the_commands_that_check_are_commands() -> None:
    known = {option for parameter in verify.params for option in parameter.opts}
    for command in CHECKS:
        program, name, bundle, *rest = shlex.split(command)
        assert (program, name, bundle) == ("tapeout", verify.name, "BUNDLE")
        assert {word for word in rest if word.startswith("--")} <= known
    assert "Ends with 3 " in CHECKS["tapeout verify BUNDLE --runs-here"]
    assert (IntegrityError.exit_code, DeviceMissing.exit_code) == (5, 3)


def test_every_form_that_people_read_says_how_to_check_the_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("validate.render_html.plots_available", lambda: False)
    html, markdown = render_html(sample_report()), render_markdown(sample_report()).replace("\\", "")
    for words in (*CHECKS, *CHECKS.values(), *BESIDE):
        assert words in html, words
        assert words in markdown, words
    for words in (*(meaning for _, meaning in BESIDE.values()), *TIERS.values()):
        assert words.replace("'", "&#39;") in html, words
    assert "with 5 after listing every finding" in html
