"""Measure a finished bundle on this machine: what a device or an OEM runs, without exporter or quantizer."""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from compile.package import Package
from tapeout.baseline import against
from tapeout.bundle import write_reports
from tapeout.code_version import tool_version
from tapeout.manifest import FETCH, differences, read_manifest
from tapeout.values import from_json
from targets.errors import IntegrityError, UsageError
from targets.target import Target
from validate.assemble import Built, assemble_devices, headline
from validate.golden import Golden
from validate.measure import Measured, References, measure_package, now
from validate.plans import LatencyPlan
from validate.prompt_cache import PromptCache, open_prompt_cache
from validate.report import Report, read_report

Say = Callable[[str], None]

# What a manifest says of a package beside the package's own fields.
ENTRY_ONLY = frozenset({"device", "status", "verdict", "recipe", "digest", "prompt_cache"})


@dataclass(frozen=True)
class Opened:
    """A finished bundle whose every file has been verified.

    Attributes:
        manifest: of the bundle.
        report: of its build.
        target: it was judged by.
    """

    manifest: dict[str, Any]
    report: Report
    target: Target


def open_bundle(bundle: Path, out: Path) -> Opened:
    """Verify a bundle that is to be measured again, with reports in `out`.

    Raises:
        IntegrityError: a file is not as the manifest says.
        UsageError: `out` lies inside the bundle.
    """
    if out.resolve().is_relative_to(bundle.resolve()):
        raise UsageError(f"{out} lies inside the bundle", "name a folder elsewhere: a bundle does not change")
    manifest = read_manifest(bundle)
    wrong = differences(bundle, manifest)
    if wrong:
        raise IntegrityError(f"{bundle}: {'; '.join(wrong[:3])}", FETCH)
    target: Target = TypeAdapter(Target).validate_python(manifest["target"])
    return Opened(manifest, read_report(bundle / "report.json"), target)


def revalidate(bundle: Path, out: Path, say: Say, baseline: Report | None = None) -> Report:
    """Verify the bundle's files, measure every package in it, and write new reports to `out`.

    Raises:
        IntegrityError: a file is not as the manifest says.
        DeviceMissing: a runtime is not installed.
        UsageError: `out` lies inside the bundle.
    """
    opened = open_bundle(bundle, out)
    manifest, target = opened.manifest, opened.target
    references = read_references(bundle, manifest)
    built = []
    for path, package in manifest["packages"].items():
        say(f"validate {path}")
        cache = cache_of(bundle, path, package)
        here = dataclasses.replace(references, cache=cache, prefix=cache is not None)
        built.append(measure(bundle / path, package, here, target.prompt_lengths))
    devices = assemble_devices(target, built)
    verdict, sentence = headline(target, devices)
    report = dataclasses.replace(
        opened.report,
        verdict=verdict,
        headline=sentence,
        devices=devices,
        change=None,
        tapeout=tool_version("tapeout"),
        created=now(),
    )
    if baseline is not None:
        report = against(report, baseline, target)
    out.mkdir(parents=True, exist_ok=True)
    write_reports(report, out)
    return report


def read_references(bundle: Path, manifest: Mapping[str, Any]) -> References:
    """What the float model says, as the bundle carries it."""
    golden: Golden = from_json("validate.golden:Golden", manifest["golden"], bundle / "golden")
    if manifest["experience"] is None:
        return References(golden)
    return References(
        golden, from_json("validate.experience:Experience", manifest["experience"], bundle / "experience")
    )


def cache_of(bundle: Path, path: str, package: Mapping[str, Any]) -> PromptCache | None:
    """The prompt cache of a package of the bundle, if it has one.

    Raises:
        DeviceMissing: another version of the runtime is here.
    """
    place = package.get("prompt_cache")
    return None if place is None else open_prompt_cache(bundle / place, bundle / path, package["settings"])


def measure(folder: Path, package: dict[str, Any], references: References, prompt_lengths: tuple[int, ...]) -> Built:
    """One package of the bundle, measured here."""
    loaded = load_package(package, folder)
    with tempfile.TemporaryDirectory() as scratch:
        plan = LatencyPlan(prompt_lengths=prompt_lengths)
        measured: Measured = measure_package(loaded, references, plan, Path(scratch), lambda done, total: None)
    return Built(package["device"], loaded.backend, package["recipe"], loaded, package["digest"], measured.measurement)


def package_fields(package: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest's entry without what the bundle says of the package: the fields of `compile.package.Package`."""
    return {name: value for name, value in package.items() if name not in ENTRY_ONLY}


def load_package(package: Mapping[str, Any], folder: Path) -> Package:
    """The package that a manifest's entry describes."""
    loaded: Package = from_json("compile.package:Package", package_fields(package), folder)
    return loaded
