import re

from tests.rendered import html_of
from tests.soaked_report import soaked_report
from validate.plots import draw_plots
from validate.sections import gaps
from validate.standing import standings


def text_of(section: str) -> str:
    found = re.search(rf'<section id="{section}".*?(?=<section id=|</main>)', html_of(soaked_report()), re.DOTALL)
    assert found
    return " ".join(re.sub(r"<[^>]*>", " ", found[0]).split())


def test_a_soak_fills_its_section_and_that_of_energy() -> None:
    assert {"soak", "energy", "change"}.isdisjoint(section.name for section, _ in gaps(soaked_report()))
    assert "30.0 1 800" in text_of("soak")
    assert "0.920" in text_of("soak")
    assert "package-0 0.515" in text_of("energy")
    assert {row.energy for row in standings(soaked_report())} == {"not measured", "0.515"}


def test_a_baseline_shows_what_became_worse_first() -> None:
    text = text_of("change")
    assert "worse beyond its bounds" in text
    assert "Time to first token, 512 tokens" in text
    plot = next(plot for plot in draw_plots(soaked_report()) if plot.name == "change")
    assert plot.svg is not None
    assert "worse" in plot.svg
    assert "better" in plot.svg


def test_the_soak_is_drawn_with_what_its_sensors_said() -> None:
    plot = next(plot for plot in draw_plots(soaked_report()) if plot.name == "soak")
    assert plot.svg is not None
    for label in ("tokens/s", "\N{DEGREE SIGN}C", "MHz", "openvino w8-asym"):
        assert label in plot.svg
