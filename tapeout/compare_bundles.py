"""Two bundles of the same inputs: which bytes differ, and do those that may differ behave the same."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapeout.bundle import write_reports
from tapeout.manifest import MANIFEST, read_manifest
from tapeout.tiers import CLOCK, Tier
from validate.report import read_report

# Nats per token by which two compilations of one package may be nearer to or farther from the float model.
KL_TOLERANCE = 1e-3
SHOWN = 60


@dataclass(frozen=True)
class Difference:
    """Something that should be the same.

    Attributes:
        file: of the bundle.
        field: where in it: a path into JSON, or a byte.
        values: of both.
    """

    file: str
    field: str
    values: tuple[str, str]

    def __str__(self) -> str:
        """The difference for people."""
        return f"{self.file}: {self.field} is {self.values[0]} once and {self.values[1]} once"


def compare_bundles(one: Path, other: Path) -> list[Difference]:
    """Everything that differs and should not, files in the order of their names."""
    manifests = read_manifest(one), read_manifest(other)
    tiers: Mapping[str, str] = manifests[0]["tiers"]
    found: list[Difference] = []
    for path in sorted({*manifests[0]["files"], *manifests[1]["files"]}):
        missing = [path not in manifest["files"] for manifest in manifests]
        if any(missing):
            found.append(Difference(path, "the file", ("missing" if missing[0] else "there", "there")))
        elif tiers.get(path) in {Tier.R0, Tier.R1}:
            found += compare_files(one / path, other / path, path)
    found += compare_values(MANIFEST, steady_manifest(manifests[0]), steady_manifest(manifests[1]))
    found += compare_values("report.json", behaviour(one), behaviour(other), KL_TOLERANCE)
    return [*found, *rendered_otherwise(other)]


def compare_files(one: Path, other: Path, name: str) -> list[Difference]:
    """The first difference of two files that should be the same."""
    first, second = one.read_bytes(), other.read_bytes()
    if name == "bom.cdx.json":
        return compare_values(name, without_figures(first), without_figures(second))
    if first == second:
        return []
    if name.endswith(".json"):
        found = compare_values(name, json.loads(first), json.loads(second))
        if found:
            return found[:1]
    at = next((place for place, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    if at is None:
        return [Difference(name, "its length", (str(len(first)), str(len(second))))]
    return [Difference(name, f"byte {at}", (f"{first[at]:#04x}", f"{second[at]:#04x}"))]


def without_figures(data: bytes) -> Any:
    """A bill of materials without what was measured, which is compared as behaviour, and its number, made of it."""
    bom = json.loads(data)
    bom.pop("serialNumber", None)
    for component in bom["components"]:
        component.get("modelCard", {}).pop("quantitativeAnalysis", None)
        component.get("modelCard", {}).pop("considerations", None)
    bom["metadata"]["component"].pop("description", None)
    return bom


def steady_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest without the digests of what may differ."""
    steady = {path for path, tier in manifest["tiers"].items() if tier in {Tier.R0, Tier.R1} and path != "bom.cdx.json"}
    kept = {name: value for name, value in manifest.items() if name not in {"identity", "verdict"}}
    for table in ("files", "sizes"):
        kept[table] = {path: value for path, value in manifest[table].items() if path in steady}
    kept["packages"] = {path: steady_package(package) for path, package in manifest["packages"].items()}
    measured = [dict(stage) for stage in manifest["stages"]]
    for stage in measured:
        if stage["name"].startswith("measure"):
            stage["output"] = None
    return {**kept, "stages": measured}


def steady_package(package: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says of a package, without what a clock decided."""
    return {name: value for name, value in package.items() if name not in {"status", "verdict"}}


def behaviour(folder: Path) -> dict[str, Any]:
    """What every package of a bundle was seen to do: its answers, and how far it is from the float model."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    for device in report["devices"]:
        for runtime in device["runtimes"]:
            for candidate in runtime["candidates"]:
                name = f"{device['name']}-{runtime['backend']} {candidate['scheme']}"
                measured = candidate["measurement"]
                found[name] = {
                    "weights_digest": candidate["weights_digest"],
                    "checks": candidate["checks"],
                    "answers": [answer["text"] for answer in measured["answers"]],
                    "kl_mean": {setting: one["kl_mean"] for setting, one in measured["fidelity"].items()},
                }
    return found


def rendered_otherwise(folder: Path) -> list[Difference]:
    """Renderings that the report would not give here: they depend on where they were made."""
    report = read_report(folder / "report.json")
    with tempfile.TemporaryDirectory() as scratch:
        write_reports(report, Path(scratch))
        return [
            difference
            for name in sorted(CLOCK)
            for difference in compare_files(folder / name, Path(scratch) / name, name)[:1]
        ]


def compare_values(name: str, one: Any, other: Any, tolerance: float = 0.0) -> list[Difference]:
    """Every difference of two JSON values."""
    return [
        Difference(name, field or "the whole", (short(a), short(b))) for field, a, b in walk("", one, other, tolerance)
    ]


def walk(field: str, one: Any, other: Any, tolerance: float) -> Iterator[tuple[str, Any, Any]]:
    """(path, both values) of every leaf that differs."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            yield from walk(f"{field}.{key}".lstrip("."), one.get(key, "missing"), other.get(key, "missing"), tolerance)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, pair in enumerate(zip(one, other, strict=True)):
            yield from walk(f"{field}[{place}]", *pair, tolerance)
    elif not same_leaf(one, other, tolerance):
        yield field, one, other


def same_leaf(one: Any, other: Any, tolerance: float) -> bool:
    """Whether two values that hold no others are the same; true and 1 are not."""
    if tolerance and isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= tolerance
    return bool(one == other) and type(one) is type(other)


def short(value: Any) -> str:
    """A value that fits a line."""
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
