"""A search in the report: what was tried, why it ended and, where nothing passes, what is to blame and would pass."""

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from tests.sample_report import failing_report, sample_report
from validate.render_html import render_html
from validate.render_terminal import render_terminal
from validate.report import Report
from validate.search_words import failure_lines, would_pass_sentence


def on_terminal(report: Report) -> str:
    """What a terminal 400 characters wide shows."""
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=400)
    render_terminal(report, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def in_a_log(report: Report) -> str:
    """The same as plain lines."""
    console = Console(file=io.StringIO(), force_terminal=False, width=400)
    render_terminal(report, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


EVERYWHERE = pytest.mark.parametrize("render", [on_terminal, in_a_log, render_html])


@EVERYWHERE
def test_a_search_shows_what_it_tried_and_why_it_ended(render: Callable[[Report], str]) -> None:
    report = sample_report()
    text = render(report)
    for tried in report.searches[0].tried:
        assert tried.recipe in text
        assert tried.reason in text
    assert report.searches[0].stopped in text
    assert "is the smallest that passes" in text
    assert "rounded alone" not in text


@EVERYWHERE
def test_a_failure_names_weights_layers_and_what_would_pass(render: Callable[[Report], str]) -> None:
    text = render(failing_report())
    assert (
        "costs w4-asym-g64+gptq most, each weight rounded alone:"
        " model.layers.6.self_attn.v_proj.weight 0.000800, model.layers.6.self_attn.q_proj.weight 0.000600" in text
    )
    assert "that cost most, each rounded alone: 6: 0.00600, 13: 0.00600, 20: 0.00600, 27: 0.00600, 5: 0.00500" in text
    assert " to pass, not tried: w4-asym-g64+keep10+gptq, 92.8 MB, which is over the byte budget, KL 0.0712" in text


def test_when_nothing_is_expected_to_pass_that_is_said() -> None:
    report = failing_report()
    (found,) = report.searches
    assert would_pass_sentence(replace(found, would_pass=None)).startswith("no recipe that this device takes")
    assert "over the byte budget" not in would_pass_sentence(replace(found, weight_bytes_max=None))
    assert list(failure_lines(report, replace(found, chosen="w8-asym"))) == []
