"""Percentiles, restarts, conditions, endings, the KV cache, parity and the suite: each figure is in its section."""

import re
from dataclasses import replace

import pytest

from targets.sensors import SensorReading
from tests.sample_report import failing_report, sample_report
from validate import render_html as rendering
from validate.experience import Felt
from validate.kv_cache import CachePrecision, KvCache
from validate.latency import sampled
from validate.measurement import Percentile
from validate.package_measurement import Measurement
from validate.paired import Paired
from validate.parity import Mismatch, TokenizerParity
from validate.prompt_cache import CANNOT
from validate.prompt_cache_measure import CachedPrompt
from validate.prompt_cache_words import prompt_cache_sentences
from validate.report import Report
from validate.sections import gaps
from validate.stability import Stability
from validate.steadiness import Conditions, Process, Restarts
from validate.vehicle_ranking import VehicleRanking

FIGURES = {
    "latency": (
        "First token 32, 128, 512, 1 024 21 not enough samples for p50 (n = 21, need 9011)",
        "Between tokens 32 901 41.1 (40.2\N{EN DASH}42.3) &lt; 43.4",
        "not enough samples for p99 (n = 901, need 99662)",
        "Intervals: 7 777 or 10 000 resamples of whole requests.",
        "2.77 1.66 357 103 131 3",  # cold and warm start, first and later requests, prompt, processes
        "1 evicted first 1.71 2.77 359 101 11.3",
        "2 as the system had them 0.721 1.67 357 103 11.7",
        "3 as the system had them 0.731 1.65 353 109 11.9",
        "1.034 Within a factor of 1.1: the times stand as measured.",
        "5.83 7.91 No limit is set in the target.",
        "Governor Temperature, \N{DEGREE SIGN}C Clock, MHz Slowed for heat Load, runnable tasks",
        "w8-asym powersave 48.2, 61.5 2111, 1777 2 times 0.430, 2.71",
        "w8-asym no sensor no sensor 3691, 3688 no sensor 0.310, 1.94",
        "w8-asym 32 31.1 30.6\N{EN DASH}31.6 11.6 11.6\N{EN DASH}11.7 9",
        "w8-asym 1 032 149 35.0 235 ",  # context, MB a token, GB/s, the roof
        "w8-asym 512 32 23.6 43.7 43.7\N{EN DASH}43.7 293 293\N{EN DASH}293 0.149 1.37 1.13 the same bits 0.000190",
        "Time, ms Prompt, tokens Samples p50 p90 p95 p99 p99.9",
    ),
    "environment": (
        "Frequency governor no sensor, powersave",
        "Clock source hpet, tsc",
        "Temperature 48.2\N{EN DASH}61.5 \N{DEGREE SIGN}C (x86_pkg_temp)",
        "Processor clock 1777\N{EN DASH}3691 MHz",
        "Slowed for heat 2 times",
        "Load, runnable tasks 0.310\N{EN DASH}2.71",
        "Processor AMD EPYC 9R14",
        "CPU, OpenVINO GenAI, w8-asym openvino 2026.4.1, openvino-genai 2026.4.1.0",
        "each of 4 measurements",
    ),
    "robustness": (
        "26 53.0 37.0 of 47 4.10 (3.30) 87.0 (93.0) 1.07",
        "f16 to compare with 23 000 0 0.0410 0 271 1 033",
        "u8 as it ships 12 880 44.0 0.0430 0.00200 271",
        "1 of 141 113 28 5 2 of 17 emoji, ids: [1, 2] for [3]",
    ),
    "accuracy": (
        "In-vehicle suite, ranking 129 of 333 requests 52.7 51.9 -0.775 (-4.65 to 2.33) 3.71",
        "3.10 points: not shown n = 129, needs 1 207",
        "97.3",
        "de 61 33 31",
        "parking 17 9 8",
    ),
}


def marked(measured: Measurement) -> Measurement:
    """Every figure in question is one that occurs nowhere else."""
    scarce = (Percentile(0.5, 21, 9011), Percentile(0.99, 21, 99662))
    known = Percentile(0.5, 901, 11, 41.11, 40.22, 42.33, 43.44, 7777)
    first, *rest = (replace(one, ttft_percentiles=scarce) for one in measured.latency)
    processes = (
        Process(True, 1.71, 2.77, 359.0, 101.0, 11.3),
        Process(False, 0.721, 1.67, 357.0, 103.0, 11.7),
        Process(False, 0.731, 1.65, 353.0, 109.0, 11.9),
    )
    around = (
        SensorReading(48.2, "x86_pkg_temp", 2111.0, 3, 0.43),
        SensorReading(61.5, "x86_pkg_temp", 1777.0, 5, 2.71),
    )
    cache = (CachePrecision("f16", 23_000, 0.041, 0.0, False), CachePrecision("u8", 12_880, 0.043, 0.002, True))
    paired = Paired(129, 65, 3, 2, -1 / 129, -6 / 129, 3 / 129, -0.0371, 1.0, 0.031, 1207)
    ranking = VehicleRanking(129, 333, 5, 0.973, paired, paired, {"parking": (17, 9, 8)}, {"de": (61, 33, 31)}, 0.02)
    return replace(
        measured,
        latency=(replace(first, interval_percentiles=(known, Percentile(0.99, 901, 99662))), *rest),
        restarts=Restarts(131, 16, 3, processes, 0.0583, 0.0791),
        drift=1.034,
        conditions=Conditions("powersave", "hpet", *around),
        kv_cache=KvCache(cache, "f16", 23_000, 0.44, 1033, 271),
        parity=TokenizerParity(
            {"emoji": 113}, 28, 5, {"emoji": 1}, 17, 2, (Mismatch("emoji", "ids", "[1, 2]", "[3]"),)
        ),
        prompt_cache=CachedPrompt(
            512,
            32,
            23_600_128,
            1.37,
            1.13,
            sampled([43.7] * 5),
            sampled([293.0] * 5),
            0.149,
            16,
            True,
            0.0,
            0.00019,
            1.0,
        ),
        felt=Felt(Stability(26, 47, 37.0, 0.53, 0.041, 0.033, 0.87, 0.93, 1.07, (None, 7)), ranking),
    )


def changed(bare: bool) -> Report:
    """The sample with one package marked, or, `bare`, with none of this measured on any."""
    report = sample_report()
    device = report.devices[0]
    runtimes = []
    for place, runtime in enumerate(device.runtimes):
        items = []
        for item in runtime.candidates:
            measured = item.measurement
            if bare:
                timed = tuple(replace(one, ttft_percentiles=(), interval_percentiles=()) for one in measured.latency)
                measured = replace(measured, latency=timed, conditions=None, restarts=None, drift=None)
                measured = replace(measured, kv_cache=None, parity=None, felt=None, roofline=None)
            elif place == 0 and item.ships:
                measured = marked(measured)
            items.append(replace(item, measurement=measured))
        runtimes.append(replace(runtime, candidates=tuple(items)))
    return replace(report, devices=(replace(device, runtimes=tuple(runtimes)), *report.devices[1:]))


def sections_of(report: Report) -> dict[str, str]:
    """The words of each section, by its name; without plots, which have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "plots_available", lambda: False)
        page = rendering.render_html(report)
    found = re.findall(r'<section id="(\w+)"(.*?)(?=<section id=|</main>)', page, re.DOTALL)
    return {name: " ".join(re.sub(r"<[^>]*>", " ", text).split()) for name, text in found}


@pytest.fixture(scope="module")
def full() -> dict[str, str]:
    return sections_of(changed(bare=False))


@pytest.fixture(scope="module")
def bare() -> dict[str, str]:
    return sections_of(changed(bare=True))


@pytest.mark.parametrize(("section", "text"), [(name, text) for name, texts in FIGURES.items() for text in texts])
def test_the_figure_is_in_its_section(full: dict[str, str], section: str, text: str) -> None:
    assert text in full[section]


def test_nothing_is_blank_where_it_was_not_measured(bare: dict[str, str]) -> None:
    latency = bare["latency"]
    assert latency.count("Percentiles: not measured.") == 4
    assert latency.count("w8-asym not measured") == 8  # two packages: their restarts, roofline, drift, conditions
    assert "Not measured: whether the machine stayed as it was is not known. not measured not measured" in latency
    assert "Conditions not measured" in bare["environment"]
    assert bare["accuracy"].count("w8-asym not measured") == 2
    assert "robustness" in {section.name for section, _ in gaps(changed(bare=True))}
    assert not [name for name, text in bare.items() if "None" in text]


def test_a_package_without_what_others_have_says_so_in_every_table() -> None:
    report = failing_report()
    device = report.devices[0]
    refused = device.runtimes[1].candidates[0]
    unasked = replace(refused, measurement=replace(refused.measurement, felt=None))
    runtimes = (device.runtimes[0], replace(device.runtimes[1], candidates=(unasked,)))
    shown = sections_of(replace(report, devices=(replace(device, runtimes=runtimes), *report.devices[1:])))
    assert shown["robustness"].count("ONNX Runtime GenAI w4-sym-g64 not measured") == 3
    assert shown["accuracy"].count("ONNX Runtime GenAI w4-sym-g64 not measured") == 1
    assert shown["latency"].count("ONNX Runtime GenAI w4-sym-g64 not measured") == 3


def test_what_users_feel_is_said_once(full: dict[str, str]) -> None:
    assert "In-vehicle suite" not in full["robustness"]
    assert "What users feel" in full["robustness"]
    for word in ("Repetition", "Bytes per token", "Conversations"):
        assert word in full["robustness"]
        assert word not in full["accuracy"]


def test_a_prompt_cache_is_said_in_a_sentence_and_so_is_why_there_is_none() -> None:
    report = sample_report()
    device = report.devices[0]
    (said,) = prompt_cache_sentences(marked(device.runtimes[0].candidates[0].measurement))
    assert "answered after 43.7 ms with its state loaded (23.6 MB), and after 293 ms without: 0.149 of the time" in said
    assert "loading takes 1.37 s with it and 1.13 s without" in said
    assert "16 positions are the same, bit for bit, as after computing the prefix" in said
    refused = Measurement(prompt_cache_refused=CANNOT["openvino-npu"])
    assert list(prompt_cache_sentences(refused)) == [f"Prompt cache: none, since {CANNOT['openvino-npu']}."]
    items = [replace(item, measurement=refused) for item in device.runtimes[0].candidates]
    runtimes = (replace(device.runtimes[0], candidates=tuple(items)), *device.runtimes[1:])
    shown = sections_of(replace(report, devices=(replace(device, runtimes=runtimes), *report.devices[1:])))
    assert f"w8-asym {CANNOT['openvino-npu']}" in shown["latency"]
