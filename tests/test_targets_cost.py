import tomllib
from pathlib import Path
from typing import Any

import pytest

from targets.cost import Alternative, Cost
from targets.cost_file import load_offers
from targets.errors import UsageError
from targets.target import DATA, list_targets, load_target, parse_target

RYZEN: dict[str, Any] = tomllib.loads((DATA / "ryzen.toml").read_text(encoding="utf-8"))
COST = Cost(currency="EUR", device_price=100, life_years=5, duty=0.1, watts=20, electricity_per_kwh=0.36)


def test_cost_of_a_million_tokens_is_the_share_of_the_device_and_the_electricity() -> None:
    # 10^6 tokens at 10 per second take 10^5 s. The device works 5 years x 8766 h x 3600 s x 0.1 = 15,778,800 s.
    device, electricity = 100 * 1e5 / 15_778_800, 20 * 1e5 / 3.6e6 * 0.36
    assert COST.per_million_tokens(10) == pytest.approx(device + electricity)
    assert COST.per_million_tokens(20) == pytest.approx(COST.per_million_tokens(10) / 2)


FILE = """
[cost]
currency = "EUR"
device_price = 100
life_years = 5
duty = 0.1
watts = 20
electricity_per_kwh = 0.36

[[alternatives]]
name = "the plan we have"
kind = "cloud"
source = "our contract"
date = "2026-11-01"
cost_per_million_tokens = 2
"""


def test_a_file_of_offers_is_read(tmp_path: Path) -> None:
    path = tmp_path / "offers.toml"
    path.write_text(FILE)
    offers = load_offers(path)
    assert offers.cost == COST
    assert [one.name for one in offers.alternatives] == ["the plan we have"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("duty = 0.1", "duty = 0"), "duty"),
        (("watts = 20", "watts = -1"), "watts"),
        (("2026-11-01", "last year"), "date"),
        (('source = "our contract"', 'source = " "'), "source"),
        (("cost_per_million_tokens = 2", "price = 2"), "price"),
        (("[cost]", "[costs]"), "costs"),
        (('kind = "cloud"', 'kind = "elsewhere"'), "kind"),
        (("[cost]", "[cost"), "not TOML"),
    ],
)
def test_a_wrong_file_of_offers_is_refused_with_the_place(tmp_path: Path, change: tuple[str, str], named: str) -> None:
    path = tmp_path / "offers.toml"
    path.write_text(FILE.replace(*change))
    with pytest.raises(UsageError, match=named):
        load_offers(path)


def test_a_target_may_say_what_its_device_costs() -> None:
    prices = {"currency": "EUR", "device_price": 1, "life_years": 1, "duty": 1, "watts": 1, "electricity_per_kwh": 1}
    found = parse_target({**RYZEN, "cost": prices, "requirements": {"kl_mean": "REQ-1"}}, "here")
    assert found.cost is not None
    assert found.requirements == {"kl_mean": "REQ-1"}
    with pytest.raises(UsageError, match="did you mean 'duty'"):
        parse_target({**RYZEN, "cost": {**prices, "dutty": 1}}, "here")


def test_no_target_that_ships_invents_a_price() -> None:
    assert all(load_target(name).cost is None and not load_target(name).alternatives for name in list_targets())


def test_an_alternative_needs_a_name() -> None:
    with pytest.raises(UsageError, match="no name"):
        Alternative(name=" ", kind="cloud", source="x", date="2026-01-01")
