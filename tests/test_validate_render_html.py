import base64
import hashlib
import importlib.util
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tests.rendered import html_of
from tests.sample_report import candidate, failing_report, poisoned, sample_report
from validate import figures
from validate.plots import draw_plots
from validate.render_html import render_html, side_by_side
from validate.report import Report, to_json
from validate.sections import SECTIONS, gaps


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
    page = Page(html_of(make()))
    assert page.open == []
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert not page.attributes("style")
    references = [*page.attributes("href"), *page.attributes("src"), *page.attributes("xlink:href")]
    assert all(reference == "data:," or reference.removeprefix("#") in ids for reference in references)
    tags = [tag for tag, _ in page.elements]
    assert not {"img", "iframe", "object", "embed", "form", "base"} & set(tags)
    assert tags.count("script") == 2
    assert tags.count("style") == 1
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


def test_the_policy_allows_the_page_its_own_style_and_script_and_nothing_else() -> None:
    text = html_of(poisoned(sample_report()))
    found = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert found
    allowed = dict(part.split(" ", 1) for part in found[1].replace("&#39;", "'").split("; "))
    hashes = {
        directive: base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        for directive, inside in (
            ("style-src", text.split("<style>")[1].split("</style>")[0]),
            ("script-src", text.split("<script>")[1].split("</script>")[0]),
        )
    }
    assert allowed == {
        "default-src": "'none'",
        "img-src": "data:",
        **{directive: f"'sha256-{digest}'" for directive, digest in hashes.items()},
    }


def test_css_and_plots_fetch_nothing() -> None:
    style = re.findall(r"<style>.*?</style>|style=\"[^\"]*\"", html_of(sample_report()), re.DOTALL)
    assert not [text for text in style if "@import" in text or re.search(r"url\((?!#)", text)]
    assert not [plot for plot in draw_plots(sample_report()) if plot.svg and "http" in plot.svg]


def test_every_clip_and_mark_of_a_plot_is_in_the_page() -> None:
    page = Page(html_of(sample_report()))
    used = [name for value in page.attributes("clip-path") for name in re.findall(r"url\(#([^)]*)\)", value)]
    assert used
    assert set(used) <= set(page.attributes("id"))


@pytest.mark.parametrize("make", [sample_report, lambda: poisoned(failing_report())])
def test_html_carries_the_whole_report_as_data(make: Callable[[], Report]) -> None:
    report = make()
    text = html_of(report)
    assert text.count("</script") == 2
    data, _, _ = "".join(Page(text).scripts).rpartition('"use strict"')
    assert json.loads(data) == json.loads(to_json(report))


def test_html_says_what_was_not_measured() -> None:
    shown = Page(html_of(failing_report())).shown
    assert shown.count(figures.NOT_MEASURED) > 5
    assert "None" not in shown


def test_every_section_is_in_the_page_and_in_its_contents() -> None:
    page = Page(html_of(sample_report()))
    ids, links = page.attributes("id"), page.attributes("href")
    for section in SECTIONS:
        assert section.name in ids
        assert f"#{section.name}" in links


def test_a_section_without_data_says_what_would_fill_it() -> None:
    for report in (
        sample_report(),
        replace(sample_report(), devices=sample_report().devices[1:], stages=(), golden={}),
    ):
        shown = " ".join(Page(html_of(report)).shown.split())
        found = gaps(report)
        assert {"soak", "energy", "safety", "change"} <= {section.name for section, _ in found}
        for _, gap in found:
            assert f"Not measured. {gap.reason} Next: {gap.step}" in shown


def test_every_table_has_a_caption_and_every_heading_follows_its_parent() -> None:
    page = Page(html_of(failing_report()))
    tags = [tag for tag, _ in page.elements]
    assert tags.count("table") == tags.count("caption") > 5
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))


def test_without_matplotlib_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    page = Page(render_html(sample_report()))
    assert "Plots need matplotlib" in page.shown
    assert "plot" not in page.attributes("class")


def test_plots_name_what_they_show() -> None:
    drawn = draw_plots(sample_report())
    names = ["ttft", "first", "tokens", "roofline", "size", "phases", "placement", "front", "sensitivity"]
    assert [plot.name for plot in drawn if plot.svg] == names
    assert [plot.name for plot in drawn if plot.svg is None] == ["soak", "change"]
    for plot in drawn:
        if plot.svg is None:
            continue
        assert 'role="img"' in plot.svg
        assert f"<title>{plot.title}</title>" in plot.svg
        assert {"front": "cpu: passes", "sensitivity": "down_proj"}.get(plot.name, "openvino w8-asym") in plot.svg


def test_plots_draw_only_what_was_measured() -> None:
    report = sample_report()
    bare = replace(report, devices=report.devices[1:], searches=(), sensitivity=())
    drawn = draw_plots(bare)
    assert not [plot.name for plot in drawn if plot.svg]
    page = Page(html_of(bare))
    assert all(f"{plot.missing}" in page.shown for plot in drawn if plot.section == "conversion")


def test_html_marks_where_an_answer_parts() -> None:
    answer = candidate("openvino", "w4-sym-g64").measurement.answers[0]
    start, was, now = side_by_side(answer)
    assert (start + was, start + now) == (answer.reference, answer.text)
    assert (was, now) == ("on the river Seine.", "the largest city in Europe.")
    assert side_by_side(replace(answer, text=answer.reference)) == (answer.reference, "", "")
    assert side_by_side(replace(answer, text=answer.reference + " Yes."))[2] == "Seine. Yes."
