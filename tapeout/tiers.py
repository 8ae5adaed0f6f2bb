"""How far a bundle's bytes are the same when it is built again from the same inputs with the same tools.

R0      the same bytes: any folder, user, time zone, locale, hash seed, umask and number of threads
R1      the same bytes on the same machine: a float model's own figures depend on the processor's kernels
R2      other bytes, the same behaviour: what a vendor's compiler wrote
clock   what a clock said, and what shows it
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

# Packages with compiled contexts or blobs in them; other back ends' files are our own writers'.
COMPILED = frozenset({"openvino-npu", "qnn"})
CLOCK = frozenset({"report.json", "report.html", "report.md", "junit.xml"})
OURS = ("bom.cdx.json", "chain.json", "provenance.slsa.json")


class Tier(StrEnum):
    """What is promised of a file."""

    R0 = "R0"
    R1 = "R1"
    R2 = "R2"
    CLOCK = "clock"


def tiers_of(files: Iterable[str], packages: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The tier of every file of a bundle, by path.

    Args:
        files: paths.
        packages: how each is loaded, as the manifest has them.
    """
    worst = max((package_tier(package) for package in packages.values()), default=Tier.R0)
    return {path: str(tier_of(path, packages, worst)) for path in files}


def tier_of(path: str, packages: Mapping[str, Mapping[str, Any]], worst: Tier) -> Tier:
    """The tier of one file; what lists digests of packages is no better than the worst of them."""
    for folder, package in packages.items():
        if path.startswith(f"{folder}/"):
            return package_tier(package)
    if path in CLOCK:
        return Tier.CLOCK
    return max(Tier.R1, worst) if path in OURS else Tier.R1


def package_tier(package: Mapping[str, Any]) -> Tier:
    """The tier of a package: a calibrated recipe computes with the float model, which R1 allows."""
    if package["backend"] in COMPILED:
        return Tier.R2
    return Tier.R1 if "+" in package["recipe"] else Tier.R0
