"""report.html in a real browser: what it logs, fetches and shows, in both themes, on a phone and on paper."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chromium import Browser, browser
from tests.rendered import html_of
from tests.sample_report import failing_report, poisoned, sample_report

WIDE, PHONE = (1280, 800), (390, 844)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    reports = {"sample": sample_report(), "hostile": poisoned(failing_report())}
    for name, report in reports.items():
        (folder / f"{name}.html").write_text(html_of(report), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in reports}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as one:
        yield one


@pytest.mark.parametrize("name", ["sample", "hostile"])
def test_the_page_loads_without_a_word_on_the_console_or_the_network(
    chromium: Browser, pages: dict[str, Path], name: str
) -> None:
    chromium.seen.clear()
    for theme in ("light", "dark"):
        chromium.open(pages[name], *WIDE, theme)
        assert chromium.evaluate("document.querySelectorAll('main section').length") > 15
        assert chromium.screenshot().startswith(b"\x89PNG")
    chromium.open(pages[name], *PHONE)
    chromium.pdf()
    assert (chromium.seen.logged, chromium.seen.fetched) == ([], [])


def test_the_browser_would_notice(chromium: Browser, tmp_path: Path) -> None:
    """The check above can fail: an inline script, a remote picture and an error are all seen."""
    chromium.seen.clear()
    bad = tmp_path / "bad.html"
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; img-src http:\">"
    bad.write_text(f"{policy}<img src=http://127.0.0.1:9/x.png><script>console.log(1)</script>", encoding="utf-8")
    chromium.open(bad, *WIDE)
    assert any("Content Security Policy" in line for line in chromium.seen.logged)
    assert chromium.seen.fetched == ["http://127.0.0.1:9/x.png"]
    chromium.seen.clear()


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("name", ["sample", "hostile"])
def test_nothing_makes_the_page_scroll_sideways(
    chromium: Browser, pages: dict[str, Path], name: str, size: tuple[int, int]
) -> None:
    chromium.open(pages[name], *size)
    chromium.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert chromium.evaluate("document.documentElement.scrollWidth") <= size[0]


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_the_verdict_and_the_next_step_are_on_the_first_screen(
    chromium: Browser, pages: dict[str, Path], size: tuple[int, int]
) -> None:
    chromium.open(pages["sample"], *size)
    for selector in ("#verdict", ".headline", ".hero-next li"):
        assert chromium.evaluate(f"document.querySelector('{selector}').getBoundingClientRect().bottom") < size[1]


def test_the_theme_follows_the_system_until_a_reader_chooses(chromium: Browser, pages: dict[str, Path]) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    chromium.open(pages["sample"], *WIDE, "dark")
    dark = chromium.evaluate(background)
    chromium.evaluate("document.querySelector('[data-theme-choice=light]').click()")
    light = chromium.evaluate(background)
    assert dark != light
    chromium.open(pages["sample"], *WIDE, "light")
    assert chromium.evaluate(background) == light
    chromium.evaluate("document.querySelector('[data-theme-choice=dark]').click()")
    assert chromium.evaluate(background) == dark


LUMINANCE = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const known = new Map();
  const seen = (colour) => {
    if (!known.has(colour)) {
      canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
      known.set(colour, [...canvas.getImageData(0, 0, 1, 1).data]);
    }
    return known.get(colour);
  };
  const over = (top, under) => top.slice(0, 3).map((value, i) => value * top[3] / 255 + under[i] * (1 - top[3] / 255));
  const behind = (element) => {
    const own = seen(getComputedStyle(element).backgroundColor);
    return own[3] === 255 || !element.parentElement ? own.slice(0, 3) : over(own, behind(element.parentElement));
  };
  const light = (rgb) => rgb.map((value) => value / 255)
    .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
  const found = [];
  for (const element of document.querySelectorAll("main *, nav *, header *, footer *")) {
    if (![...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
    if (element.closest("svg") || !element.checkVisibility()) continue;
    const under = behind(element);
    const pair = [light(over(seen(getComputedStyle(element).color), under)), light(under)].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < 4.5) found.push(`${element.className || element.tagName} ${ratio.toFixed(2)}`);
  }
  return [...new Set(found)];
})()
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_the_contrast_that_people_need(chromium: Browser, pages: dict[str, Path], theme: str) -> None:
    """WCAG 2.2, level AA: 4.5 to 1."""
    chromium.open(pages["sample"], *WIDE, theme)
    chromium.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert chromium.evaluate(LUMINANCE) == []


def test_tables_sort_by_their_figures_and_by_keyboard(chromium: Browser, pages: dict[str, Path]) -> None:
    chromium.open(pages["sample"], *WIDE)
    column = "[...document.querySelectorAll('#memory tbody tr')].map(row => row.cells[1].textContent.trim())"
    as_built = chromium.evaluate(column)
    chromium.evaluate("document.querySelectorAll('#memory th .sort')[1].focus()")
    for kind in ("keyDown", "keyUp"):
        chromium.call(
            "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13
        )
    rising = chromium.evaluate(column)
    assert rising != as_built
    assert [float(value) for value in rising] == sorted(float(value) for value in as_built)
    assert chromium.evaluate("document.querySelectorAll('#memory th')[1].getAttribute('aria-sort')") == "ascending"


def test_paper_shows_what_decides(chromium: Browser, pages: dict[str, Path]) -> None:
    chromium.open(pages["sample"], *WIDE)
    paper = chromium.pdf()
    assert 4 < len(re.findall(rb"/Type\s*/Page\b", paper)) < 40


PAPER = 688  # CSS pixels between the margins of A4
TOO_WIDE = """[...document.querySelectorAll(".scroll")]
  .filter((box) => box.checkVisibility() && box.scrollWidth > box.clientWidth + 1)
  .map((box) => box.querySelector("caption").textContent)"""


def test_no_table_runs_over_the_edge_of_the_paper(chromium: Browser, pages: dict[str, Path]) -> None:
    chromium.open(pages["sample"], PAPER, 900)
    chromium.call("Emulation.setEmulatedMedia", media="print")
    try:
        chromium.evaluate("document.querySelectorAll('details.print').forEach(part => part.open = true)")
        assert chromium.evaluate(TOO_WIDE) == []
    finally:
        chromium.call("Emulation.setEmulatedMedia", media="")
