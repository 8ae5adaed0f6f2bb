"""What a package asks of the machine that runs it: said when the bundle is built, held against the one it is on."""

import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapeout.code_version import tool_version
from targets.probe import BASELINE, SYS, Host
from targets.target import Device

# Of an Intel NPU, by the platform that a blob is compiled for: the kernel driver's own table.
INTEL_NPUS: Mapping[str, frozenset[str]] = {
    "3720": frozenset({"8086:7d1d", "8086:ad1d"}),
    "4000": frozenset({"8086:643e"}),
    "5010": frozenset({"8086:b03e", "8086:fd3e"}),
}
GLIBC_TAG = re.compile(r"manylinux_(\d+)_(\d+)_")


@dataclass(frozen=True)
class Held:
    """One claim against this machine.

    Attributes:
        package: its path in the bundle.
        claim: what it asks.
        holds: None when this machine does not show it.
        found: what this machine has.
    """

    package: str
    claim: str
    holds: bool | None
    found: str


def claims_of(device: Device, package: Mapping[str, Any], tools: Mapping[str, str], system: str) -> dict[str, Any]:
    """What a package asks.

    Args:
        device: of the target.
        package: how it is loaded, as the manifest has it.
        tools: versions of its runtime's distributions.
        system: name of the operating system that built and ran it.
    """
    cpu = device.kind == "cpu" and device.architecture != "any"
    return {
        "kind": device.kind,
        "generation": device.generation,
        "architecture": device.architecture,
        "instruction_sets": sorted(BASELINE[device.architecture]) if cpu else [],
        "runtimes": dict(tools),
        "glibc": glibc_of(tools) if system == "Linux" else None,
        "requires": dict(package.get("requires", {})),
    }


def glibc_of(tools: Mapping[str, str]) -> str | None:
    """The oldest C library that all the distributions run on, from the tags of their wheels; None when none says."""
    found = []
    for name in tools:
        try:
            text = importlib.metadata.distribution(name).read_text("WHEEL") or ""
        except importlib.metadata.PackageNotFoundError:
            continue
        oldest = [(int(major), int(minor)) for major, minor in GLIBC_TAG.findall(text)]
        found += [min(oldest)] if oldest else []
    return ".".join(map(str, max(found))) if found else None


def hold_claims(claims: Mapping[str, Mapping[str, Any]], host: Host, pci: frozenset[str]) -> tuple[Held, ...]:
    """Every claim of every package against this machine.

    Args:
        claims: of the manifest, by package.
        host: this machine.
        pci: vendor and device of everything on its PCI bus, as `8086:643e`.
    """
    return tuple(held for path, claim in claims.items() for held in hold_package(path, claim, host, pci))


def hold_package(path: str, claim: Mapping[str, Any], host: Host, pci: frozenset[str]) -> list[Held]:
    """The claims of one package."""
    held = []
    if claim["architecture"] != "any":
        asked = claim["architecture"]
        held.append(Held(path, f"a CPU of {asked}", asked == host.architecture, host.architecture))
    for name in claim["instruction_sets"]:
        has = name in host.instruction_sets
        held.append(Held(path, f"instruction set {name}", has, "there" if has else "not there"))
    if claim["glibc"] is not None:
        enough = None if host.glibc is None else numbers(host.glibc) >= numbers(claim["glibc"])
        held.append(Held(path, f"glibc {claim['glibc']} or newer", enough, host.glibc or "unknown"))
    for name, version in claim["runtimes"].items():
        found = tool_version(name)
        held.append(Held(path, f"{name} {version}", found == version, found))
    return [*held, *hold_accelerator(path, claim, pci)]


def hold_accelerator(path: str, claim: Mapping[str, Any], pci: frozenset[str]) -> list[Held]:
    """Whether the accelerator's generation is on the bus, for those that are told apart there."""
    if claim["kind"] == "cpu":
        return []
    requires = claim["requires"]
    wanted = INTEL_NPUS.get(requires.get("platform", ""), frozenset())
    if "pci_id" in requires:
        wanted = frozenset(re.findall(r"[0-9a-f]{4}:[0-9a-f]{4}", requires["pci_id"].lower().replace("&", ":")))
    asked = f"{claim['kind']} {claim['generation']}"
    if not wanted:
        return [Held(path, asked, None, "its generation cannot be seen from here")]
    found = sorted(wanted & pci)
    return [Held(path, asked, bool(found), ", ".join(found) if found else f"no {' or '.join(sorted(wanted))}")]


def pci_devices(sys: Path = SYS) -> frozenset[str]:
    """Vendor and device of everything on the PCI bus; empty where there is none to be seen."""
    found = set()
    for folder in sys.glob("bus/pci/devices/*"):
        try:
            words = [(folder / name).read_text().strip().removeprefix("0x") for name in ("vendor", "device")]
        except OSError:
            continue
        found.add(":".join(words))
    return frozenset(found)


def numbers(version: str) -> tuple[int, ...]:
    """A version of numbers, to compare."""
    return tuple(int(part) for part in re.findall(r"\d+", version))
