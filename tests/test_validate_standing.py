import csv
import io
from dataclasses import replace

import pytest

from targets.cost import Alternative, Cost
from tests.rendered import html_of
from tests.sample_report import failing_report, poisoned, sample_report
from validate.measurement import Sampled
from validate.render_markdown import render_markdown
from validate.report import Report
from validate.standing import LONG_PROMPT, notes, standings
from validate.traceability import orphans, render_csv

COST = Cost(currency="EUR", device_price=80, life_years=5, duty=0.05, watts=12, electricity_per_kwh=0.3)
CLOUD = Alternative(
    name="the plan we have",
    kind="cloud",
    source="our contract",
    date="2026-11-01",
    cost_per_million_tokens=2.0,
    note="Needs a connection.",
)


def priced() -> Report:
    return replace(
        sample_report(), cost=COST, alternatives=(CLOUD,), requirements={"kl_mean": "REQ-7", "gone": "REQ-9"}
    )


def test_every_package_stands_beside_every_alternative() -> None:
    rows = standings(priced())
    assert [(row.name, row.ours, row.ships) for row in rows[1:2] + rows[-1:]] == [
        ("smollm2-135m, w8-asym", True, True),
        ("the plan we have", False, False),
    ]
    speed = float(rows[1].speed)
    amount, currency = rows[1].cost.split()
    assert float(amount) == pytest.approx(COST.per_million_tokens(speed), rel=0.01)
    assert currency == "EUR"
    assert (rows[-1].cost, rows[-1].size, rows[-1].speed) == ("2.00 EUR", "not given", "not given")


def test_no_price_is_assumed() -> None:
    assert {row.cost for row in standings(sample_report())} == {"no price"}
    assert "no price is assumed" in " ".join(notes(sample_report()))


def test_the_long_prompt_is_quoted_where_it_was_timed() -> None:
    report = sample_report()
    assert {row.first_token for row in standings(report)} == {"not measured"}
    assert any("4096 tokens: not measured" in note for note in notes(report))
    device = report.devices[0]
    runtime = device.runtimes[0]
    item = runtime.candidates[1]
    last = item.measurement.latency[-1]
    long = replace(last, prompt_tokens=LONG_PROMPT, ttft_ms=Sampled(4320.0, 4300.0, 4400.0, (4320.0,)))
    timed = replace(item, measurement=replace(item.measurement, latency=(*item.measurement.latency, long)))
    changed = replace(device, runtimes=(replace(runtime, candidates=(runtime.candidates[0], timed)),))
    rows = standings(replace(report, devices=(changed,)))
    assert [row.first_token for row in rows] == ["not measured", "4320"]


def test_the_page_and_the_markdown_show_the_comparison() -> None:
    for text in (html_of(priced()), render_markdown(priced())):
        assert "the plan we have" in text
        assert "2.00 EUR" in text
        assert "our contract" in text or "cloud" in text


def test_the_matrix_names_the_requirement_the_data_and_the_package() -> None:
    rows = list(csv.DictReader(io.StringIO(render_csv(priced()))))
    judged = sum(len(item.gates) for one in priced().devices[0].runtimes for item in one.candidates)
    assert len(rows) == judged
    row = next(row for row in rows if row["gate"] == "deployed.kl_mean" and row["decides"] == "yes")
    assert row["requirement"] == "REQ-7"
    assert row["package_digest"] == "41ab" * 16
    assert row["data"] == f"{85:064x}"
    assert (row["bound"], row["verdict"]) == ("<= 0.01", "PASS")


def test_what_has_no_counterpart_is_listed() -> None:
    bare, unmet = orphans(priced())
    assert unmet == ("REQ-9",)
    assert "package_mb" in bare
    assert "deployed.kl_mean" not in bare
    assert "REQ-9" in html_of(priced())


def test_a_spreadsheet_takes_no_cell_for_a_formula() -> None:
    report = failing_report()
    hostile = replace(report, requirements={"kl_mean": "=HYPERLINK(1)"})
    for text in (render_csv(hostile), render_csv(poisoned(hostile))):
        assert not [cell for row in csv.reader(io.StringIO(text)) for cell in row if cell.startswith(("=", "+", "@"))]
