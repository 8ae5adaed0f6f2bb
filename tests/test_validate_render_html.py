import importlib.util
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tests.sample_report import candidate, failing_report, poisoned, sample_report
from validate import figures
from validate.plots import draw_plots
from validate.render_html import render_html, side_by_side
from validate.report import Report, to_json


class Page(HTMLParser):
    """What a browser would see: elements, attributes, text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.shown = ""
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "br", "path", "circle", "use"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"path", "circle", "use"}:
            assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if "script" in self.open:
            self.scripts.append(data)
        elif "style" not in self.open:
            self.shown += data

    def attributes(self, name: str) -> list[str]:
        return [value or "" for _, attributes in self.elements if (value := attributes.get(name)) is not None]


@pytest.mark.parametrize("make", [sample_report, failing_report, lambda: poisoned(sample_report())])
def test_html_is_well_formed_and_fetches_nothing(make: Callable[[], Report]) -> None:
    page = Page(render_html(make()))
    assert page.open == []
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page.attributes("content")
    references = [*page.attributes("href"), *page.attributes("src"), *page.attributes("xlink:href")]
    assert all(reference == "data:," or reference.removeprefix("#") in ids for reference in references)
    tags = [tag for tag, _ in page.elements]
    assert not {"img", "iframe", "object", "embed", "form", "base"} & set(tags)
    assert tags.count("script") == 1
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


def test_css_and_plots_fetch_nothing() -> None:
    style = re.findall(r"<style>.*?</style>|style=\"[^\"]*\"", render_html(sample_report()), re.DOTALL)
    assert not [text for text in style if "@import" in text or re.search(r"url\((?!#)", text)]
    assert not [plot for plot in draw_plots(sample_report()) if "http" in plot.svg]


def test_every_clip_and_mark_of_a_plot_is_in_the_page() -> None:
    page = Page(render_html(sample_report()))
    used = [name for value in page.attributes("clip-path") for name in re.findall(r"url\(#([^)]*)\)", value)]
    assert used
    assert set(used) <= set(page.attributes("id"))


@pytest.mark.parametrize("make", [sample_report, lambda: poisoned(failing_report())])
def test_html_carries_the_whole_report_as_data(make: Callable[[], Report]) -> None:
    report = make()
    text = render_html(report)
    assert text.count("</script") == 1
    assert json.loads("".join(Page(text).scripts)) == json.loads(to_json(report))


def test_html_says_what_was_not_measured() -> None:
    shown = Page(render_html(failing_report())).shown
    assert shown.count(figures.NOT_MEASURED) > 5
    assert "None" not in shown


def test_without_matplotlib_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    page = Page(render_html(sample_report()))
    assert "Plots need matplotlib" in page.shown
    assert "plot" not in page.attributes("class")


def test_plots_name_what_they_show() -> None:
    drawn = draw_plots(sample_report())
    assert [plot.name for plot in drawn] == ["ttft", "tokens", "size", "phases", "front", "sensitivity"]
    for plot in drawn:
        assert 'role="img"' in plot.svg
        assert f"<title>{plot.title}</title>" in plot.svg
        assert {"front": "cpu: passes", "sensitivity": "down_proj"}.get(plot.name, "openvino w8-asym") in plot.svg


def test_plots_draw_only_what_was_measured() -> None:
    report = sample_report()
    assert draw_plots(replace(report, devices=report.devices[1:], searches=(), sensitivity=())) == ()


def test_html_marks_where_an_answer_parts() -> None:
    answer = candidate("openvino", "w4-sym-g64").measurement.answers[0]
    start, was, now = side_by_side(answer)
    assert (start + was, start + now) == (answer.reference, answer.text)
    assert (was, now) == ("on the river Seine.", "the largest city in Europe.")
    assert side_by_side(replace(answer, text=answer.reference)) == (answer.reference, "", "")
    assert side_by_side(replace(answer, text=answer.reference + " Yes."))[2] == "Seine. Yes."
