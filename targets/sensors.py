"""What a machine says of its temperature, its clock, its throttling and its energy; None without a sensor."""

import time
from dataclasses import dataclass, field
from pathlib import Path

SYS = Path("/sys")
PROC = Path("/proc")

NO_SENSOR = "no sensor"


@dataclass(frozen=True, slots=True)
class SensorReading:
    """One look at the sensors.

    Attributes:
        temperature_c: the hottest thermal zone, in degrees Celsius.
        temperature_of: what that zone calls itself.
        clock_mhz: mean clock of the processors.
        throttled: times the processors were slowed for heat since the system started.
        load: runnable tasks, mean of the last minute.
    """

    temperature_c: float | None = None
    temperature_of: str | None = None
    clock_mhz: float | None = None
    throttled: int | None = None
    load: float | None = None


def read_sensors(sys: Path = SYS, proc: Path = PROC) -> SensorReading:
    """The sensors as they stand now. Never fails."""
    temperature, name = _temperature(sys)
    throttled = [
        count
        for path in sys.glob("devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")
        if (count := _number(path)) is not None
    ]
    load = (_text(proc / "loadavg") or "").partition(" ")[0]
    return SensorReading(
        temperature_c=temperature,
        temperature_of=name,
        clock_mhz=_clock(sys, proc),
        throttled=sum(throttled) if throttled else None,
        load=float(load) if load.replace(".", "", 1).isdecimal() else None,
    )


def clock_source(sys: Path = SYS) -> str | None:
    """What the kernel keeps time by, such as `tsc`."""
    return _text(sys / "devices/system/clocksource/clocksource0/current_clocksource")


@dataclass(frozen=True, slots=True)
class EnergyCounter:
    """A counter of energy.

    Attributes:
        name: as the system calls it, such as `package-0`.
        path: its file, in microjoules.
        range_uj: value at which it starts again from 0; None where it is too wide to wrap.
    """

    name: str
    path: Path
    range_uj: int | None


def find_energy_counters(sys: Path = SYS) -> tuple[EnergyCounter, ...]:
    """The counters of whole packages that this user may read; those of hwmon where powercap has none.

    A package's own parts (cores, memory controller) are inside the package's figure, so they are not counted again.
    AMD's processors are read through the same `intel-rapl` names. On most systems the files are root's alone.
    """
    zones = sorted(sys.glob("class/powercap/*:[0-9]*"))
    packages = [
        EnergyCounter(_text(zone / "name") or zone.name, zone / "energy_uj", _number(zone / "max_energy_range_uj"))
        for zone in zones
        if zone.name.count(":") == 1 and (_text(zone / "name") or "").startswith(("package", "psys"))
    ]
    found = [counter for counter in packages if _number(counter.path) is not None]
    # The platform's figure has the packages in it.
    whole = [counter for counter in found if counter.name.startswith("psys")]
    if found:
        return tuple(whole or found)
    inputs = sorted(sys.glob("class/hwmon/hwmon*/energy*_input"))
    return tuple(
        EnergyCounter(f"{_text(path.parent / 'name') or path.parent.name} {path.name}", path, None)
        for path in inputs
        if _number(path) is not None
    )


@dataclass
class EnergyMeter:
    """Energy since it was made; look at least once between two wraps (a package at 65 W wraps after an hour).

    Attributes:
        counters: what is read.
        since: clock when it was made, in seconds.
        last_uj: by counter, its last value.
        total_uj: of all counters.
    """

    counters: tuple[EnergyCounter, ...] = field(default_factory=find_energy_counters)
    since: float = field(default_factory=time.monotonic)
    last_uj: dict[Path, int] = field(default_factory=dict)
    total_uj: int = 0

    def __post_init__(self) -> None:
        self.look()

    def look(self) -> float | None:
        """Joules so far; None without a sensor, or when one was lost on the way."""
        for counter in self.counters:
            now = _number(counter.path)
            if now is None:
                self.counters = ()
                break
            step = now - self.last_uj.get(counter.path, now)
            if step < 0 and counter.range_uj is not None:
                step += counter.range_uj
            self.total_uj += step
            self.last_uj[counter.path] = now
        return self.total_uj / 1e6 if self.counters else None

    @property
    def sensor(self) -> str:
        """What is read, or that there is nothing."""
        return ", ".join(counter.name for counter in self.counters) or NO_SENSOR


def _temperature(sys: Path) -> tuple[float | None, str | None]:
    zones = [
        (reading / 1000, _text(zone / "type") or zone.name)
        for zone in sorted(sys.glob("class/thermal/thermal_zone*"))
        if (reading := _number(zone / "temp")) is not None
    ]
    return max(zones, default=(None, None), key=lambda zone: zone[0])


def _clock(sys: Path, proc: Path) -> float | None:
    """From cpufreq, in kHz; from /proc/cpuinfo where there is none."""
    kilohertz = [_number(path) for path in sys.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")]
    clocks = [reading / 1000 for reading in kilohertz if reading is not None]
    if not clocks:
        lines = (_text(proc / "cpuinfo") or "").splitlines()
        values = [line.partition(":")[2].strip() for line in lines if line.startswith("cpu MHz")]
        clocks = [float(value) for value in values if value.replace(".", "", 1).isdecimal()]
    return round(sum(clocks) / len(clocks), 1) if clocks else None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text and text.lstrip("-").isdecimal() else None


def _text(path: Path) -> str | None:
    """The text of a pseudo file, or None: a sensor may be absent, forbidden, or fail when it is read."""
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None
