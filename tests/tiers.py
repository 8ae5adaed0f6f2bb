"""How much of each battery of faults runs in `make test` and in `make test-deep`; docs/assurance.md repeats it."""

from dataclasses import dataclass

import pytest

DEEP_S = 7200


@dataclass(frozen=True)
class Tiers:
    """Two sizes of a battery.

    Attributes:
        unit: what is counted.
        bounded: how many in `make test`.
        deep: how many in `make test-deep`; the same number means that `make test` runs all there is.
    """

    unit: str
    bounded: int
    deep: int

    @property
    def each(self) -> pytest.MarkDecorator:
        """Runs a test that takes `size` once in each tier."""
        long = [pytest.mark.deep, pytest.mark.timeout(DEEP_S)]
        sizes = [pytest.param(self.bounded, id="bounded"), pytest.param(self.deep, id="deep", marks=long)]
        return pytest.mark.parametrize("size", sizes)


CRASH_POINTS = Tiers("faults", 80, 10_000)  # there are about half as many: all of them
BIT_FLIPS = Tiers("changes", 600, 10_000)
KILLED_BUILDS = Tiers("kills", 4, 100)
INTERRUPTED_BUILDS = Tiers("signals", 1, 12)
CONCURRENT_BUILDS = Tiers("keys", 10, 100)
COLLECTIONS = Tiers("rounds", 10, 200)
HOSTILE_MODELS = Tiers("models", 152, 152)
FUZZED = Tiers("examples a parser", 60, 10_000)
HOSTILE_CHILDREN = Tiers("cases", 45, 45)

BATTERIES = {name: value for name, value in globals().items() if isinstance(value, Tiers)}
