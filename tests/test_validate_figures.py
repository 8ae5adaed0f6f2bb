from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.status import Status, Verdict
from targets.target import list_targets, load_target
from tests.sample_report import candidate, failing_report, sample_report
from validate import figures, words
from validate.comparison import compare, key_figures, key_length
from validate.judge import Bound, judge_bound
from validate.package_measurement import Measurement
from validate.report import GateResult
from validate.safe_text import clean


def gate(name: str, value: float, limit: float, direction: str = "max") -> GateResult:
    return judge_bound(Bound(name, value, limit, direction, ""), limit)


def test_gates_stand_failed_first() -> None:
    gates = failing_report().devices[0].runtimes[1].candidates[0].gates
    verdicts = [gate.verdict for gate in words.by_urgency(gates)]
    assert verdicts == sorted(verdicts, key=words.URGENCY.index)
    assert set(verdicts) == set(Verdict)


def test_a_gate_stands_beside_the_figure_it_judged() -> None:
    rows = {row.label: row.cells for row in compare([candidate("openvino", "w4-sym-g64")])}
    (divergence,), (cold,), (warm,) = rows["KL, deployed"], rows["Load, cold"], rows["Load, warm"]
    assert (divergence.text, divergence.bound, divergence.verdict) == ("0.391", "\u2264 0.1", Verdict.FAIL)
    assert (cold.verdict, warm.verdict) == (Verdict.PASS, None)
    assert rows["After a prompt of 1024"][0].verdict is Verdict.PASS
    assert rows["After a prompt of 32"][0].verdict is None


def test_key_figures_are_of_one_prompt_length() -> None:
    assert key_length(sample_report()) == 512
    unmeasured = replace(candidate("openvino", "w8-asym"), measurement=Measurement())
    assert key_figures(unmeasured, 512).speed == figures.NOT_MEASURED


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "not measured"),
        (0.0, "0"),
        (0.3906, "0.391"),
        (0.0043, "0.00430"),
        (0.00004, "4.00e-05"),
        (9.996, "10.0"),
        (86.412, "86.4"),
        (1441.6, "1440"),
        (-12.345, "-12.3"),
        (2.5e9, "2.50e+09"),
    ],
)
def test_figures_have_three_significant_digits(value: float | None, written: str) -> None:
    assert figures.figure(value) == written


def test_rounding_never_hides_which_side_of_the_bound_a_figure_is_on() -> None:
    assert figures.gate_value(gate("deployed.kl_mean", 0.010004, 0.01)) == "0.010004"
    assert figures.gate_value(gate("deployed.top1", 0.93996, 0.94, "min")) == "93.996"
    assert figures.gate_value(gate("deployed.top1", 0.57, 0.57, "min")) == "57.0"
    assert figures.percent(0.99996) == "99.996"
    assert figures.percent(1.0) == "100"


def test_durations_and_times_are_written_for_people() -> None:
    assert [figures.seconds(value) for value in (None, 12.64, 188.4)] == ["not measured", "12.6 s", "3 min 08 s"]
    assert figures.moment("2026-11-21T21:37:00+00:00") == "2026-11-21 21:37 UTC"
    assert figures.moment("yesterday") == "yesterday"


def test_gate_names_read_as_words() -> None:
    assert words.gate_words("deployed.kl_mean") == "Mean KL divergence, deployed"
    assert words.gate_words("ttft_ms.512") == "Time to first token, 512 tokens"
    assert words.gate_words("new_gate.deployed") == "New gate, deployed"


def test_every_status_and_runtime_has_words() -> None:
    assert set(words.STATUS_MEANING) == set(Status)
    backends = {
        runtime.backend
        for name in list_targets()
        for device in load_target(name).devices
        for runtime in device.runtimes
    }
    assert backends <= set(words.RUNTIME_NAMES)


@given(st.text())
def test_cleaned_text_is_harmless_and_clean(text: str) -> None:
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    ElementTree.fromstring(f"<a>{cleaned.replace('&', '').replace('<', '')}</a>")  # noqa: S314 - our own output
