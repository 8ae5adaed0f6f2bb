"""How a figure is written: three significant digits, the interval beside the median, never a blank."""

import math
import re
from collections.abc import Iterable

from validate.report import GateResult

NOT_MEASURED = "not measured"
DASH = "\N{EN DASH}"
AT_MOST = "\N{LESS-THAN OR EQUAL TO}"
AT_LEAST = "\N{GREATER-THAN OR EQUAL TO}"
DIGITS = 3
# Near one, the difference from one is what matters: a ratio gets one digit more.
RATIO_DIGITS = 4
MOST_DIGITS = 9
# Below this a row of zeros is harder to read than a power of ten.
SMALLEST_PLAIN = 1e-4
LARGEST_PLAIN = 1e6

UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|\+00:00)")

SHARES = frozenset({"top1", "placement", "agreement", "loss", "repetition", "spread", "memory_growth"})
RATIOS = frozenset({"perplexity_ratio", "length_ratio", "drift", "rate_ratio"})


def figure(value: float | None, digits: int = DIGITS) -> str:
    """`value` with so many significant digits; integers of more digits are rounded too."""
    if value is None:
        return NOT_MEASURED
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    rounded = float(f"{value:.{digits - 1}e}")
    size = abs(rounded)
    if not SMALLEST_PLAIN <= size < LARGEST_PLAIN:
        return f"{value:.{digits - 1}e}"
    decimals = max(0, digits - 1 - math.floor(math.log10(size)))
    return f"{rounded:.{decimals}f}"


def figure_beside(value: float | None, beside: Iterable[float], digits: int = DIGITS) -> str:
    """`value`, with as many digits more as it takes not to read like one of the numbers it differs from."""
    text = figure(value, digits)
    while value is not None and digits < MOST_DIGITS and float(text) in {other for other in beside if other != value}:
        digits += 1
        text = figure(value, digits)
    return text


def percent(share: float | None, beside: Iterable[float] = ()) -> str:
    """A share from 0 to 1 in percent, without the sign. Only a whole share reads 100."""
    if share is None:
        return NOT_MEASURED
    return figure_beside(in_percent(share), (100.0, *(in_percent(other) for other in beside)))


def in_percent(share: float) -> float:
    """The percent of a share typed in decimal: 0.57 is 57, not 56.99999999999999."""
    return float(plain(share * 100))


def interval(low: float | None, high: float | None, digits: int = DIGITS) -> str:
    """Both ends of a confidence interval."""
    if low is None or high is None:
        return NOT_MEASURED
    return f"{figure(low, digits)}{DASH}{figure(high, digits)}"


def megabytes(size: int | None) -> str:
    """Bytes in units of 10^6."""
    return figure(None if size is None else size / 1e6)


def seconds(value: float | None) -> str:
    """A duration with its unit, in minutes when it is long."""
    if value is None:
        return NOT_MEASURED
    if value < 120:
        return f"{figure(value)} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s"


def count(value: int | None) -> str:
    """A whole number, every digit of it, in groups of three."""
    return NOT_MEASURED if value is None else f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def moment(created: str) -> str:
    """An ISO 8601 time in UTC as people write it; any other time as it stands."""
    return f"{created[:16].replace('T', ' ')} UTC" if UTC.fullmatch(created) else created or NOT_MEASURED


def short_digest(digest: str | None) -> str:
    """Enough of a digest to tell two apart by eye; the whole one is in the report's data."""
    return NOT_MEASURED if not digest else digest.removeprefix("sha256:")[:12]


def plain(value: float) -> str:
    """A bound as its author wrote it."""
    return f"{value:.10g}"


def gate_value(gate: GateResult) -> str:
    """The value of a gate in the unit of `gate_unit`."""
    if _stem(gate) in SHARES:
        return percent(gate.value, (gate.bound,))
    return figure_beside(gate.value, (gate.bound,), RATIO_DIGITS if _stem(gate) in RATIOS else DIGITS)


def gate_bound(gate: GateResult) -> str:
    """What a gate asks for: `at most 0.01`, `at least 94`."""
    return f"at {'most' if gate.direction == 'max' else 'least'} {_bound(gate)}"


def gate_bound_sign(gate: GateResult) -> str:
    """The same where there is little room."""
    return f"{AT_MOST if gate.direction == 'max' else AT_LEAST} {_bound(gate)}"


def gate_unit(gate: GateResult) -> str:
    """The unit of a gate's value as `gate_value` writes it; empty for a bare number."""
    return "%" if _stem(gate) in SHARES else gate.unit


def _bound(gate: GateResult) -> str:
    return plain(in_percent(gate.bound) if _stem(gate) in SHARES else gate.bound)


def _stem(gate: GateResult) -> str:
    return gate.name.rpartition(".")[2]
