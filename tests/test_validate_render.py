import io
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from tests.sample_report import failing_report, passing_report, poisoned, sample_report
from validate import words
from validate.render_html import render_html
from validate.render_junit import render_junit
from validate.render_markdown import MOST_BYTES, render_markdown
from validate.render_terminal import render_terminal
from validate.report import Report, read_report, to_json


def terminal(report: Report, width: int = 80, drawn: bool = False) -> str:
    stream = io.StringIO()
    render_terminal(report, Console(file=stream, width=width, force_terminal=drawn), Path("out/report.html"))
    return stream.getvalue()


FORMATS: dict[str, Callable[[Report], str]] = {
    "html": render_html,
    "markdown": render_markdown,
    "junit": render_junit,
    "plain": terminal,
    "terminal": lambda report: terminal(report, drawn=True),
}
every_format = pytest.mark.parametrize("render", FORMATS.values(), ids=FORMATS)


@every_format
@pytest.mark.parametrize("make", [sample_report, failing_report, passing_report])
def test_the_verdict_and_every_device_are_named(render: Callable[[Report], str], make: Callable[[], Report]) -> None:
    report = make()
    text = render(report)
    assert report.verdict.value in text
    for device in report.devices:
        assert device.name in text.lower()
        assert device.verdict.value in text
    if render is not render_junit:
        assert words.VERDICT_WORDS[report.verdict] in text


@every_format
def test_the_same_report_gives_the_same_bytes(render: Callable[[Report], str]) -> None:
    assert render(sample_report()) == render(sample_report())


@every_format
def test_no_control_character_or_foreign_markup_gets_through(render: Callable[[Report], str]) -> None:
    text = render(poisoned(sample_report()))
    text.encode()
    ours = re.sub(r"\x1b\[[0-9;]*m", "", text) if render is FORMATS["terminal"] else text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", ours)
    assert "\x1b[31m" not in text.replace("\x1b[1;31m", "")
    assert "49" not in re.findall(r"h (\d+)\b", text)
    if render not in (FORMATS["plain"], FORMATS["terminal"]):
        assert "<script>alert" not in text
        assert "<img" not in text


def test_a_report_read_back_renders_the_same(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(to_json(sample_report()), encoding="utf-8")
    again = read_report(path)
    assert {name: render(again) for name, render in FORMATS.items()} == {
        name: render(sample_report()) for name, render in FORMATS.items()
    }


@every_format
def test_a_report_without_any_measurement_renders(render: Callable[[Report], str]) -> None:
    report = sample_report()
    text = render(
        replace(report, devices=report.devices[1:], golden={}, parity={}, stages=(), assumptions=(), model={})
    )
    assert report.devices[1].reason.split(";")[0] in text.replace("\n", " ") or render is FORMATS["terminal"]


def test_markdown_tables_keep_their_columns() -> None:
    lines = render_markdown(poisoned(failing_report())).splitlines()
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")]
    heads = [line for line in lines if line.startswith("| ---")]
    assert len(heads) == 3
    assert set(widths) == {len(re.findall(r"\|", head)) for head in heads}


def test_markdown_names_what_stands_in_the_way() -> None:
    text = render_markdown(failing_report())
    assert "| FAIL | CPU, ONNX Runtime GenAI, w4-sym-g64 | Mean KL divergence, deployed: 0.391" in text
    assert "| INCOMPLETE | CPU, ONNX Runtime GenAI, w4-sym-g64 | Peak memory: not measured" in text
    assert "Allow w8-asym in the target." in text
    assert "did not pass" not in render_markdown(passing_report())


def test_markdown_stays_below_the_limit() -> None:
    report = sample_report()
    device = report.devices[1]
    wordy = replace(device, runtimes=(replace(device.runtimes[0], reason="\U0001f600" * 500),))
    many = replace(report, devices=(wordy,) * 2000)
    text = render_markdown(many)
    assert len(text.encode()) <= MOST_BYTES
    assert text.endswith("hold everything.\n")


def test_junit_counts_what_it_lists() -> None:
    root = ElementTree.fromstring(render_junit(poisoned(failing_report())))  # noqa: S314 - our own output
    cases = list(root.iter("testcase"))
    assert int(root.get("tests", "")) == len(cases) == sum(int(suite.get("tests", "")) for suite in root)
    assert int(root.get("failures", "")) == len(list(root.iter("failure"))) == 6
    assert int(root.get("skipped", "")) == len(list(root.iter("skipped"))) == 6


def test_junit_has_a_suite_a_runtime_with_the_gates_of_what_ships() -> None:
    root = ElementTree.fromstring(render_junit(sample_report()))  # noqa: S314 - our own output
    names = [suite.get("name") for suite in root]
    assert names == [
        "ryzen.cpu.openvino",
        "ryzen.cpu.onnxruntime",
        "ryzen.igpu.onnxruntime-webgpu",
        "ryzen.npu.ryzen-ai",
    ]
    first = root[0].find("testcase")
    assert first is not None
    assert first.get("name") == "w8-asym weights.kl_mean"
    assert {one.get("name"): one.get("value") for one in first.iter("property")} == {
        "value": "0.0043",
        "bound": "0.01",
        "direction": "max",
        "unit": "nats",
    }


def test_junit_names_no_two_cases_alike() -> None:
    root = ElementTree.fromstring(render_junit(failing_report()))  # noqa: S314 - our own output
    names = [(case.get("classname"), case.get("name")) for case in root.iter("testcase")]
    assert len(names) == len(set(names))


def test_junit_skips_a_device_without_a_package_and_says_why() -> None:
    root = ElementTree.fromstring(render_junit(sample_report()))  # noqa: S314 - our own output
    (case,) = root[2].findall("testcase")
    skipped = case.find("skipped")
    assert skipped is not None
    assert skipped.get("message") == sample_report().devices[1].reason


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("make", [sample_report, failing_report, lambda: poisoned(sample_report())])
def test_the_terminal_summary_fits(width: int, make: Callable[[], Report]) -> None:
    text = re.sub(r"\x1b\[[0-9;]*m", "", terminal(make(), width, drawn=True))
    assert max(map(len, text.splitlines())) <= width


def test_the_terminal_shows_figures_whole_at_80_columns() -> None:
    text = terminal(sample_report(), 80, drawn=True)
    for figure in ("86.4", "0.391", "0.00435", "95.3", "w4-sym-g64", "out/report.html"):
        assert figure in text


def test_a_log_gets_plain_lines() -> None:
    lines = terminal(failing_report()).splitlines()
    assert lines[0].startswith("FAIL: Do not ship.")
    assert lines[-1] == "report: out/report.html"
    assert not [line for line in lines if "\x1b" in line or "\u2500" in line]
    assert [line for line in lines if line.startswith("FAIL CPU, ONNX Runtime GenAI, w4-sym-g64: Top-1 agreement")]


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    modules = "figures, safe_text, words, comparison, readings, plots, render_html, render_markdown, render_junit"
    heavy = "jinja2, matplotlib, rich, pydantic, openvino, onnxruntime"
    program = (
        f"import sys; from validate import {modules}, render_terminal; "
        f"print([name for name in '{heavy}'.split(', ') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
