"""docs/assurance.md says what the batteries are."""

import re
from pathlib import Path

from tests.tiers import BATTERIES

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "assurance.md").read_text(encoding="utf-8")


def table() -> list[list[str]]:
    found = re.search(r"<!-- tiers:begin -->\n(.*?)<!-- tiers:end -->", TEXT, re.DOTALL)
    assert found
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()[2:]]


def test_the_counts_are_those_of_the_tiers() -> None:
    documented = {row[0]: (row[2], row[3], row[4]) for row in table()}
    assert documented == {name: (each.unit, str(each.bounded), str(each.deep)) for name, each in BATTERIES.items()}


def test_every_battery_is_where_it_is_said_to_be() -> None:
    for name, *_, where in table():
        text = (ROOT / where).read_text(encoding="utf-8")
        assert re.search(rf"\b{name}\b", text), f"{name} is not in {where}"


def test_every_file_named_exists() -> None:
    named = set(re.findall(r"\btests/[\w/]+\.py\b", TEXT))
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).is_file()] == []
