"""What a product costs to run, and what else could answer in its place: figures that only the user has."""

import re
from dataclasses import dataclass, fields
from typing import Literal

from targets.gates import FieldError

HOURS_A_YEAR = 8766  # 365.25 days
JOULES_A_KWH = 3.6e6
DATE = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What the tokens of a device cost: its price over its life, and the electricity it draws.

    Attributes:
        currency: of every price, as `EUR`.
        device_price: what the device adds to the product.
        life_years: for so long it is used.
        duty: share of that time in which it generates tokens, above 0 to 1.
        watts: drawn while it generates, beyond what the product draws without it.
        electricity_per_kwh: price.

    Raises:
        FieldError: a figure that cannot be.
    """

    currency: str
    device_price: float
    life_years: float
    duty: float
    watts: float
    electricity_per_kwh: float

    def __post_init__(self) -> None:
        for name in ("device_price", "watts", "electricity_per_kwh"):
            _require(getattr(self, name) >= 0, f"{name} is below 0", "write what it is, or 0 to leave it out")
        _require(self.life_years > 0, "life_years is not above 0", "write for how many years the device is used")
        _require(0 < self.duty <= 1, "duty is not above 0 and at most 1", "write the share of time it generates")
        _require(bool(self.currency.strip()), "currency is empty", "write EUR, USD or another")

    def per_million_tokens(self, tokens_per_second: float) -> float:
        """Price of 10^6 generated tokens at that speed.

        The device's price is spread over the seconds in which it generates; electricity is power times time.
        """
        busy_s = self.life_years * HOURS_A_YEAR * 3600 * self.duty
        per_second = self.device_price / busy_s + self.watts * self.electricity_per_kwh / JOULES_A_KWH
        return 1e6 * per_second / tokens_per_second


@dataclass(frozen=True, kw_only=True, slots=True)
class Alternative:
    """Something else that could answer. Every figure but the name is optional; one that is not known is left out.

    Attributes:
        name: as readers know it.
        kind: where it runs.
        source: where the figures are from: a page, a document, an own measurement.
        date: ISO 8601 day on which they were true.
        parameters: of the model.
        size_mb: on the device, in 10^6 bytes.
        score: fidelity or task score, in words with its unit, as `71 % top-1`.
        first_token_ms: time to the first token at a prompt of 4,096 tokens.
        tokens_per_second: generated.
        joules_per_token: generated.
        cost_per_million_tokens: in the currency of the table.
        note: what a reader must know to compare.

    Raises:
        FieldError: a date that is none, or a figure below 0.
    """

    name: str
    kind: Literal["cloud", "precision", "device", "other"]
    source: str
    date: str
    parameters: int | None = None
    size_mb: float | None = None
    score: str | None = None
    first_token_ms: float | None = None
    tokens_per_second: float | None = None
    joules_per_token: float | None = None
    cost_per_million_tokens: float | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        _require(bool(self.name.strip()), "an alternative has no name", "say what it is")
        _require(bool(self.source.strip()), f"'{self.name}' has no source", "say where its figures are from")
        _require(bool(DATE.fullmatch(self.date)), f"date of '{self.name}' is not a day", 'write date = "2026-01-31"')
        for one in fields(self):
            value = getattr(self, one.name)
            below = isinstance(value, (int, float)) and value < 0
            _require(not below, f"{one.name} of '{self.name}' is below 0", "correct it, or leave it out")


def _require(holds: bool, what: str, help: str) -> None:  # noqa: A002 - as in targets.errors
    if not holds:
        raise FieldError(what, help)
