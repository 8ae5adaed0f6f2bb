"""What the reports say of the suites, and when a loss in the in-vehicle suite is shown, not shown, or ruled out."""

import dataclasses

import pytest

from targets.status import Verdict
from targets.target import load_target
from tests.sample_report import sample_report
from validate.choices import Choices
from validate.experience import Felt
from validate.felt_words import felt_sentences
from validate.figures import count
from validate.judge import judge, judge_loss
from validate.kv_cache import CachePrecision, KvCache
from validate.package_measurement import Measurement
from validate.paired import compare_paired
from validate.render_html import render_html
from validate.render_markdown import render_markdown
from validate.render_terminal import plain_lines
from validate.report import GateResult, Report
from validate.stability import Stability
from validate.vehicle_ranking import VehicleRanking

LIMIT = 0.05


def ranking(items: int, lost: int, gained: int = 0) -> VehicleRanking:
    """A package that gets `lost` requests wrong which the float model gets right, and `gained` the other way."""
    both = items // 2
    theirs = [True] * (both + lost) + [False] * (items - both - lost)
    ours = [True] * both + [False] * lost + [True] * gained + [False] * (items - both - lost - gained)
    paired = compare_paired(theirs, ours, 0.03)
    return VehicleRanking(items, 333, 5, 1 - (lost + gained) / items, paired, paired, {}, {}, 0.01)


def measured(found: VehicleRanking) -> Measurement:
    return Measurement(felt=Felt(ranking=found))


@pytest.mark.parametrize(
    ("items", "lost", "gained", "verdict"),
    [
        (96, 0, 0, Verdict.PASS),
        (96, 1, 1, Verdict.PASS),
        (96, 5, 0, Verdict.INCOMPLETE),
        (333, 30, 0, Verdict.FAIL),
        (24, 0, 0, Verdict.INCOMPLETE),
        (96, 24, 0, Verdict.FAIL),
        (333, 14, 0, Verdict.FAIL),
        (333, 6, 0, Verdict.PASS),
    ],
)
def test_too_few_requests_are_no_failure_and_no_pass(items: int, lost: int, gained: int, verdict: Verdict) -> None:
    found = judge_loss(measured(ranking(items, lost, gained)), LIMIT)
    assert found.verdict is verdict
    if verdict is Verdict.INCOMPLETE:
        assert f"{items} of 333 requests" in (found.reason or "")
        assert "n = " in (found.reason or "")


def test_a_suite_that_was_not_run_is_incomplete() -> None:
    assert judge_loss(Measurement(), LIMIT).verdict is Verdict.INCOMPLETE


def cache(saving: float, cost: float) -> KvCache:
    rows = (CachePrecision("f16", 1000, 0.1, 0.0, False), CachePrecision("u8", 600, 0.1 + cost, cost, True))
    return KvCache(rows, "f16", 1000, saving, 1024, 512)


def gates_of(found: KvCache) -> dict[str, GateResult]:
    judged = judge(Measurement(kv_cache=found), 1, load_target("ryzen").gates["int8"], None)
    return {gate.name: gate for gate in judged}


def test_the_cache_must_save_40_percent_at_no_more_than_its_cost() -> None:
    good, wide, dear = (gates_of(cache(*pair)) for pair in ((0.44, 0.001), (0.39, 0.001), (0.44, 0.006)))
    names = ("kv.saving", "kv.kl_cost")
    assert [good[name].verdict for name in names] == [Verdict.PASS, Verdict.PASS]
    assert [wide[name].verdict for name in names] == [Verdict.FAIL, Verdict.PASS]
    assert [dear[name].verdict for name in names] == [Verdict.PASS, Verdict.FAIL]


def felt_report() -> Report:
    """The sample, with everything that users feel measured on its first package."""
    report = sample_report()
    device = report.devices[0]
    runtime = device.runtimes[0]
    asked = ranking(96, 2, 1)
    felt = Felt(
        ranking=asked,
        stability=Stability(24, 40, 31.0, 0.5, 0.04, 0.03, 0.9, 0.91, 1.02, (None,)),
        choices=Choices(40, 0.95, asked.paired, asked.paired),
    )
    carried = runtime.candidates[1]
    shipped = dataclasses.replace(
        carried, measurement=dataclasses.replace(carried.measurement, felt=felt, kv_cache=cache(0.4375, 0.0003))
    )
    first = dataclasses.replace(runtime, candidates=(runtime.candidates[0], shipped))
    devices = (dataclasses.replace(device, runtimes=(first, device.runtimes[1])), *report.devices[1:])
    return dataclasses.replace(report, devices=devices)


def test_every_format_says_n_what_is_needed_and_what_the_cache_saves() -> None:
    report = felt_report()
    needed = report.devices[0].runtimes[0].candidates[1].measurement.felt
    assert needed is not None
    assert needed.ranking is not None
    paired = needed.ranking.paired
    for text in ("\n".join(plain_lines(report)), render_markdown(report).replace("\\", "")):
        assert "ranking 96 of 333 requests" in text
        assert f"needs n = {paired.needed} and has n = 96" in text
        assert "Multiple choice, 40 questions" in text
        assert "KV cache in u8: 600 bytes per token, 43.8 % less than the 1000 of 16 bits" in text
        assert "512 positions beyond 1024 tokens" in text
    page = render_html(report)
    for figure in (
        "ranking 96 of 333 requests",
        f"n = 96, needs {count(paired.needed)}",
        "Multiple choice, 40 questions",
    ):
        assert figure in page


def test_a_cache_that_saves_nothing_says_so() -> None:
    found = KvCache((CachePrecision("float32", 2000, None, None, True),), "float32", 1000, -1.0, 1024, 0)
    (sentence,) = felt_sentences(Measurement(kv_cache=found))
    assert "100 % more than the 1000 of 16 bits; no narrower cache ships" in sentence
