"""What a bundle's packages ask of a device, held against what it has, before anything is copied."""

import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tapeout.code_version import tool_version
from tapeout.pipeline import find_stage
from tapeout.remote_place import Place
from targets.errors import DeviceMissing, UsageError
from targets.names import choose
from targets.probe import ARCHITECTURES
from targets.target import Device, Target
from validate.runtime import find_entry

# What a measuring child imports beside the runtime; any version of these will do.
LIBRARIES = ("jinja2", "numpy", "psutil", "pydantic")
SYSTEM = "Linux"
ABSENT = "absent"


@dataclass(frozen=True)
class Facts:
    """A device, as its agent describes it.

    Attributes:
        system: name of its operating system.
        machine: what the system calls the processor's architecture.
        versions: of the distributions that were asked for; None for one that is not installed.
    """

    system: str
    machine: str
    versions: Mapping[str, str | None]


def runtime_versions(manifest: Mapping[str, Any], path: str) -> dict[str, str]:
    """The distributions that decide a package's figures, in the versions it was built and measured with."""
    package = manifest["packages"][path]
    stage = f"measure {package['recipe']} {package['device']}-{package['backend']}"
    recorded: dict[str, str] = next((each["tools"] for each in manifest["stages"] if each["name"] == stage), {})
    tools = find_stage("measure").part_of({"backend": package["backend"]}).tools
    return {tool: recorded[tool] for tool in tools if recorded.get(tool, ABSENT) != ABSENT}


def names_to_ask(manifest: Mapping[str, Any]) -> list[str]:
    """Every distribution whose version on the device matters."""
    runtimes = [runtime_versions(manifest, path) for path in manifest["packages"]]
    return sorted({*LIBRARIES, *(name for versions in runtimes for name in versions)})


def wanted_packages(
    target: Target, packages: Mapping[str, Mapping[str, Any]], chosen: Iterable[str]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """(paths to measure, reasons of the others by path), by what the user says the device is.

    Args:
        target: of the bundle.
        packages: of its manifest.
        chosen: names of the target's devices that the device is; when empty, all but those it can be only one of.

    Raises:
        UsageError: no such device.
    """
    devices = {device.name: device for device in target.devices}
    names = {name for name in chosen if choose(name, devices, "device")}
    kinds = Counter(device.kind for device in target.devices)
    asked, left = [], {}
    for path, package in packages.items():
        device = devices[package["device"]]
        if find_entry(package["backend"]).class_name is None:
            left[path] = f"back end {package['backend']} has no runtime"
        elif names and device.name not in names:
            left[path] = "--on-device names others"
        elif not names and kinds[device.kind] > 1:
            left[path] = f"{target.name} has {kinds[device.kind]} devices of its kind; --on-device says which this is"
        else:
            asked.append(path)
    if not asked:
        reasons = "; ".join(f"{path}: {why}" for path, why in left.items()) or "it holds no package"
        raise UsageError(f"nothing of this bundle can be measured there: {reasons}", "name a device with --on-device")
    return tuple(asked), left


def check_python(place: Place, found: str) -> None:
    """Refuse another Python than this one.

    Raises:
        DeviceMissing: names both versions.
    """
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    if found.rpartition(".")[0] != ours:
        raise DeviceMissing(
            f"{place.python} on {place.host} is Python {found}; Tapeout needs {ours}",
            f"install Python {ours} there, or name it with --on-python",
        )


def check_device(place: Place, facts: Facts) -> None:
    """Refuse a device that cannot run Tapeout at all.

    Raises:
        DeviceMissing: another system, or libraries missing.
    """
    if facts.system != SYSTEM:
        raise DeviceMissing(
            f"{place.host} runs {facts.system}; this release measures over SSH on {SYSTEM} only",
            "copy the bundle there and run `tapeout validate BUNDLE` on it",
        )
    missing = [name for name in LIBRARIES if facts.versions[name] is None]
    if missing:
        raise DeviceMissing(
            f"{place.python} on {place.host} has no {', '.join(missing)}",
            pip_line(place, {name: tool_version(name) for name in missing}),
        )


def check_runtimes(
    place: Place, facts: Facts, manifest: Mapping[str, Any], target: Target, asked: Iterable[str]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """(packages that the device can run, reasons of the others by path).

    Raises:
        DeviceMissing: a runtime in another version than the package was built with, or no runtime at all.
    """
    devices = {device.name: device for device in target.devices}
    ready: list[str] = []
    left: dict[str, str] = {}
    absent: dict[str, str] = {}
    for path in asked:
        needs = runtime_versions(manifest, path)
        check_versions(place, facts, path, needs)
        missing = {name: version for name, version in needs.items() if facts.versions[name] is None}
        reason = wrong_architecture(facts, devices[manifest["packages"][path]["device"]])
        if missing:
            absent |= missing
            reason = f"{', '.join(missing)} is not installed"
        if reason:
            left[path] = reason
        else:
            ready.append(path)
    if not ready:
        reasons = "; ".join(f"{path}: {why}" for path, why in left.items())
        step = pip_line(place, absent) if absent else "choose another device, or build for this one"
        raise DeviceMissing(f"{place.host} can run no package of this bundle: {reasons}", step)
    return tuple(ready), left


def check_versions(place: Place, facts: Facts, path: str, needs: Mapping[str, str]) -> None:
    """Refuse runtimes that are there in another version."""
    wrong = {name: version for name, version in needs.items() if facts.versions[name] not in (None, version)}
    if wrong:
        found = ", ".join(
            f"{name} {facts.versions[name]} where {path} was built with {version}" for name, version in wrong.items()
        )
        raise DeviceMissing(f"{place.host} has {found}", pip_line(place, needs))


def wrong_architecture(facts: Facts, device: Device) -> str | None:
    """Why the device's processor cannot run packages for `device`; None when it can."""
    found = ARCHITECTURES.get(facts.machine.lower(), facts.machine)
    return None if device.architecture in ("any", found) else f"it is for {device.architecture}, not {found}"


def pip_line(place: Place, versions: Mapping[str, str]) -> str:
    """The command that mends a device."""
    pins = [name if version == ABSENT else f"{name}=={version}" for name, version in versions.items()]
    return f"run on {place.host}: {shlex.join([place.python, '-m', 'pip', 'install', *pins])}"
