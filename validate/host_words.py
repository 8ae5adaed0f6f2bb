"""The machines that packages were measured on, and what their sensors said around it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from targets.sensors import NO_SENSOR, SensorReading
from validate import words
from validate.figures import DASH, NOT_MEASURED, count, figure
from validate.report import Report
from validate.steadiness import Conditions

# Of a host's own facts: these change from one measurement to the next, and the conditions have them.
PASSING = frozenset({"temperature_c", "governor"})
MEGAHERTZ_DIGITS = 4
READINGS = ("Governor", "Temperature, \N{DEGREE SIGN}C", "Clock, MHz", "Slowed for heat", "Load, runnable tasks")


@dataclass
class HostSeen:
    """One machine.

    Attributes:
        facts: what it is.
        packages: measured on it, by name, with the versions of the runtimes they ran with.
        conditions: around each of those measurements, by package; None where they were not looked at.
    """

    facts: dict[str, object]
    packages: dict[str, dict[str, str]] = field(default_factory=dict)
    conditions: dict[str, Conditions | None] = field(default_factory=dict)


def hosts(report: Report) -> list[HostSeen]:
    """Each machine once, with the packages that were measured on it."""
    found: list[HostSeen] = []
    for device in report.devices:
        for runtime in device.runtimes:
            for candidate in runtime.candidates:
                measured = candidate.measurement
                facts = {name: value for name, value in measured.host.items() if name not in PASSING}
                if not facts:
                    continue
                seen = next((one for one in found if one.facts == facts), None)
                if seen is None:
                    found.append(seen := HostSeen(facts))
                name = words.package_name(device, candidate)
                seen.packages[name] = measured.environment
                seen.conditions[name] = measured.conditions
    return found


def surroundings(seen: HostSeen) -> list[tuple[str, str]]:
    """(label, text) of what the machine was like over all its measurements; `no sensor` where it does not tell."""
    known = [each for each in seen.conditions.values() if each is not None]
    if not known:
        return [("Conditions", NOT_MEASURED)]
    named = sorted({name for each in _readings(known) if (name := each.temperature_of)})
    of = f" ({', '.join(named)})" if named else ""
    return [
        ("Frequency governor", _listed(each.governor for each in known)),
        ("Clock source", _listed(each.clock_source for each in known)),
        ("Temperature", _range(known, lambda one: one.temperature_c, " \N{DEGREE SIGN}C") + of),
        ("Processor clock", _range(known, lambda one: one.clock_mhz, " MHz", MEGAHERTZ_DIGITS)),
        ("Slowed for heat", throttled_text(known)),
        ("Load, runnable tasks", _range(known, lambda one: one.load, "")),
    ]


def before_after(conditions: Conditions) -> tuple[str, ...]:
    """What each sensor said before a measurement and after it, in the order of `READINGS`."""
    before, after = conditions.before, conditions.after
    return (
        conditions.governor or NO_SENSOR,
        _pair(before.temperature_c, after.temperature_c),
        _pair(before.clock_mhz, after.clock_mhz, MEGAHERTZ_DIGITS),
        throttled_text([conditions]),
        _pair(before.load, after.load),
    )


def throttled_text(known: Iterable[Conditions]) -> str:
    """How often the processors were slowed for heat between the looks of all measurements."""
    pairs = [(each.before.throttled, each.after.throttled) for each in known]
    counts = [after - before for before, after in pairs if before is not None and after is not None]
    if not counts:
        return NO_SENSOR
    total = sum(counts)
    return "never" if total == 0 else f"{count(total)} time{'s' if total > 1 else ''}"


def _readings(known: Iterable[Conditions]) -> list[SensorReading]:
    return [reading for each in known for reading in (each.before, each.after)]


def _listed(values: Iterable[str | None]) -> str:
    return ", ".join(sorted({value or NO_SENSOR for value in values}))


def _range(
    known: Iterable[Conditions], read: Callable[[SensorReading], float | None], unit: str, digits: int = 3
) -> str:
    """Lowest to highest of every reading."""
    values = [value for reading in _readings(known) if (value := read(reading)) is not None]
    if not values:
        return NO_SENSOR
    low, high = figure(min(values), digits), figure(max(values), digits)
    return f"{low}{unit}" if low == high else f"{low}{DASH}{high}{unit}"


def _pair(before: float | None, after: float | None, digits: int = 3) -> str:
    if before is None and after is None:
        return NO_SENSOR
    first, last = (NO_SENSOR if value is None else figure(value, digits) for value in (before, after))
    return f"{first}, {last}"
