import io
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from junitparser import JUnitXml, Properties
from rich.console import Console

from tapeout.step_summary import write_step_summary
from targets.errors import NoSpace
from tests.rendered import html_of
from tests.sample_report import failing_report, passing_report, poisoned, sample_report
from validate import words
from validate.render_github import MOST_BYTES, render_github
from validate.render_html import render_html
from validate.render_junit import render_junit
from validate.render_markdown import render_markdown
from validate.render_terminal import render_terminal
from validate.report import Report, read_report, to_json


def terminal(report: Report, width: int = 80, drawn: bool = False) -> str:
    stream = io.StringIO()
    render_terminal(report, Console(file=stream, width=width, force_terminal=drawn), Path("out/report.html"))
    return stream.getvalue()


FORMATS: dict[str, Callable[[Report], str]] = {
    "html": html_of,
    "markdown": render_markdown,
    "github": render_github,
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
    again = render_html if render is html_of else render
    assert render(sample_report()) == again(sample_report())


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
    assert len(heads) == 5
    assert set(widths) == {len(re.findall(r"\|", head)) for head in heads}


def test_markdown_names_what_stands_in_the_way() -> None:
    text = render_markdown(failing_report())
    assert "| FAIL | CPU, ONNX Runtime GenAI, w4-sym-g64 | Mean KL divergence, deployed: 0.391" in text
    assert "| INCOMPLETE | CPU, ONNX Runtime GenAI, w4-sym-g64 | Peak memory: not measured" in text
    assert "Allow w8-asym in the target." in text
    assert "did not pass" not in render_markdown(passing_report())


def wordy() -> Report:
    """More rows than a step summary may hold."""
    report = sample_report()
    device = report.devices[1]
    long = replace(device, runtimes=(replace(device.runtimes[0], reason="\U0001f600" * 500),))
    return replace(report, devices=(long,) * 2000)


def test_a_step_summary_has_its_table_first_and_folds_the_rest() -> None:
    text = render_github(failing_report())
    assert text.index("| Device |") < text.index("<details>")
    assert text.count("<details><summary>") == text.count("</details>") == 10
    assert "Cut here" not in text


def test_a_step_summary_stays_below_the_limit_and_says_what_it_left_out() -> None:
    text = render_github(wordy())
    assert MOST_BYTES - 10_000 < len(text.encode()) <= MOST_BYTES
    assert text.endswith("hold everything.\n")
    assert render_github(wordy(), 10).count("\n") == 1


@pytest.mark.parametrize("most", [900, 2_000, 3_500, 4_500])
def test_a_cut_step_summary_closes_what_it_opened(most: int) -> None:
    text = render_github(failing_report(), most)
    assert len(text.encode()) <= most
    assert text.count("<details>") == text.count("</details>")
    assert "Cut here" in text


def test_a_build_adds_to_the_step_summary_of_its_job(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    environment = {"GITHUB_STEP_SUMMARY": str(path)}
    assert write_step_summary(sample_report(), {}) is None
    write_step_summary(sample_report(), environment)
    write_step_summary(failing_report(), environment)
    text = path.read_text(encoding="utf-8")
    assert text.index("# INCOMPLETE") < text.index("# FAIL")
    write_step_summary(wordy(), environment)
    assert path.stat().st_size <= MOST_BYTES + 1
    with pytest.raises(NoSpace, match="GITHUB_STEP_SUMMARY"):
        write_step_summary(sample_report(), {"GITHUB_STEP_SUMMARY": str(tmp_path / "none" / "summary.md")})


def test_junit_counts_what_it_lists() -> None:
    root = ElementTree.fromstring(render_junit(poisoned(failing_report())))  # noqa: S314 - our own output
    cases = list(root.iter("testcase"))
    assert int(root.get("tests", "")) == len(cases) == sum(int(suite.get("tests", "")) for suite in root)
    assert int(root.get("failures", "")) == len(list(root.iter("failure"))) == 6
    assert int(root.get("skipped", "")) == len(list(root.iter("skipped"))) == 6


def test_junit_has_a_suite_a_device_with_the_gates_of_what_ships() -> None:
    root = ElementTree.fromstring(render_junit(sample_report()))  # noqa: S314 - our own output
    assert [suite.get("name") for suite in root] == ["ryzen.cpu", "ryzen.igpu", "ryzen.npu"]
    classes = list(dict.fromkeys(case.get("classname") for case in root[0].iter("testcase")))
    assert classes == ["ryzen.cpu.openvino", "ryzen.cpu.onnxruntime"]
    first = root[0].find("testcase")
    assert first is not None
    assert first.get("name") == "w8-asym weights.kl_mean"
    assert {one.get("name"): one.get("value") for one in first.iter("property")} == {
        "value": "0.0043",
        "bound": "0.01",
        "direction": "max",
        "unit": "nats",
    }


# What the common JUnit schema allows below each element, in that order.
ALLOWED = {
    "testsuites": ["testsuite"],
    "testsuite": ["properties", "testcase", "system-out", "system-err"],
    "properties": ["property"],
    "property": [],
    "testcase": ["properties", "skipped", "error", "failure", "system-out", "system-err"],
    "failure": [],
    "skipped": [],
}
REQUIRED = {
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "timestamp"},
    "testcase": {"classname", "name"},
    "property": {"name", "value"},
    "failure": {"type", "message"},
}


@pytest.mark.parametrize("make", [sample_report, failing_report, passing_report, lambda: poisoned(failing_report())])
def test_junit_has_the_structure_that_readers_expect(make: Callable[[], Report]) -> None:
    text = render_junit(make())
    for element in ElementTree.fromstring(text).iter():  # noqa: S314 - our own output
        order = [ALLOWED[element.tag].index(child.tag) for child in element]
        assert order == sorted(order), f"children of <{element.tag}> are out of order"
        assert set(element.keys()) >= REQUIRED.get(element.tag, set())
    read = JUnitXml.fromstring(text.encode())
    assert (read.tests, read.failures, read.errors) == (
        sum(len(list(suite)) for suite in read),
        text.count("<failure"),
        0,
    )
    for suite in read:
        for case in suite:
            judged = case.child(Properties)
            assert judged is None or {"value", "bound", "direction"} <= {one.name for one in judged}


def test_junit_names_no_two_cases_alike() -> None:
    root = ElementTree.fromstring(render_junit(failing_report()))  # noqa: S314 - our own output
    names = [(case.get("classname"), case.get("name")) for case in root.iter("testcase")]
    assert len(names) == len(set(names))


def test_junit_skips_a_device_without_a_package_and_says_why() -> None:
    root = ElementTree.fromstring(render_junit(sample_report()))  # noqa: S314 - our own output
    (case,) = root[1].findall("testcase")
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
    modules = "figures, safe_text, words, comparison, readings, plots, render_html, render_markdown, render_github"
    heavy = "jinja2, matplotlib, rich, pydantic, openvino, onnxruntime"
    program = (
        f"import sys; from validate import {modules}, render_junit, render_terminal; "
        f"print([name for name in '{heavy}'.split(', ') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
