"""Sensors as other machines show them: below a folder, since a build machine has few of its own."""

from pathlib import Path

import pytest

from targets.sensors import EnergyMeter, SensorReading, clock_source, find_energy_counters, read_sensors


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    rapl = "sys/class/powercap/intel-rapl"
    write(
        tmp_path,
        {
            "sys/class/thermal/thermal_zone0/temp": "41500\n",
            "sys/class/thermal/thermal_zone0/type": "acpitz\n",
            "sys/class/thermal/thermal_zone1/temp": "62250\n",
            "sys/class/thermal/thermal_zone1/type": "x86_pkg_temp\n",
            "sys/class/thermal/thermal_zone2/temp": "disabled\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "3000000\n",
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "2000000\n",
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
            "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "4\n",
            "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
            "proc/loadavg": "0.42 0.30 0.20 1/300 4711\n",
            f"{rapl}:0/name": "package-0\n",
            f"{rapl}:0/energy_uj": "1000000\n",
            f"{rapl}:0/max_energy_range_uj": "5000000\n",
            f"{rapl}:0:0/name": "core\n",
            f"{rapl}:0:0/energy_uj": "900000\n",
            f"{rapl}:0:0/max_energy_range_uj": "5000000\n",
            "sys/class/hwmon/hwmon0/name": "amd_energy\n",
            "sys/class/hwmon/hwmon0/energy1_input": "7000000\n",
        },
    )
    return tmp_path


def test_a_laptop(laptop: Path) -> None:
    found = read_sensors(laptop / "sys", laptop / "proc")
    assert found == SensorReading(62.25, "x86_pkg_temp", 2500.0, 7, 0.42)
    assert clock_source(laptop / "sys") == "tsc"


def test_a_machine_without_sensors_says_so(tmp_path: Path) -> None:
    assert read_sensors(tmp_path, tmp_path) == SensorReading()
    assert clock_source(tmp_path) is None
    meter = EnergyMeter(find_energy_counters(tmp_path))
    assert (meter.look(), meter.sensor) == (None, "no sensor")


def test_a_virtual_machine_has_its_clock_in_proc(tmp_path: Path) -> None:
    write(tmp_path, {"proc/cpuinfo": "processor : 0\ncpu MHz\t\t: 2000.5\n\nprocessor : 1\ncpu MHz\t\t: 1000.5\n"})
    assert read_sensors(tmp_path / "sys", tmp_path / "proc").clock_mhz == 1500.5


def test_energy_counts_a_package_once_and_goes_on_after_a_wrap(laptop: Path) -> None:
    counter = laptop / "sys/class/powercap/intel-rapl:0/energy_uj"
    meter = EnergyMeter(find_energy_counters(laptop / "sys"))
    assert meter.sensor == "package-0"
    counter.write_text("4000000\n")
    assert meter.look() == pytest.approx(3.0)
    counter.write_text("500000\n")  # past 5,000,000 and on from 0
    assert meter.look() == pytest.approx(4.5)


def test_the_platform_has_its_packages_in_it(laptop: Path) -> None:
    write(
        laptop,
        {
            "sys/class/powercap/intel-rapl:1/name": "psys\n",
            "sys/class/powercap/intel-rapl:1/energy_uj": "1\n",
            "sys/class/powercap/intel-rapl:1/max_energy_range_uj": "9\n",
        },
    )
    assert [counter.name for counter in find_energy_counters(laptop / "sys")] == ["psys"]


def test_hwmon_where_powercap_has_nothing_to_read(laptop: Path) -> None:
    (laptop / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
    (counter,) = find_energy_counters(laptop / "sys")
    assert (counter.name, counter.range_uj) == ("amd_energy energy1_input", None)


def test_a_sensor_that_is_lost_is_no_figure(laptop: Path) -> None:
    meter = EnergyMeter(find_energy_counters(laptop / "sys"))
    (laptop / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
    assert meter.look() is None
