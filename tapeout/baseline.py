"""A baseline: the report of an earlier bundle, and what a build or a validation changed since."""

import dataclasses
import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tapeout.bundle import REPORT
from tapeout.manifest import MANIFEST
from targets.errors import UsageError
from targets.regression import Regression
from targets.target import Target
from validate.assemble import headline
from validate.compare_reports import compare_reports
from validate.regress import with_regressions
from validate.report import Report, read_report


def open_report(path: Path) -> Report:
    """The report of a bundle, of a folder of reports, or in a file.

    Raises:
        UsageError: there is none.
        InputRefused: what is there is not a report of this version.
    """
    file = path / REPORT if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"{path} holds no {REPORT}", "name the folder of a bundle, or a report.json")
    return read_report(file)


def bounds_of(path: Path) -> Regression:
    """The bounds of the target that a bundle was built for; the defaults where there is only a report."""
    manifest = path / MANIFEST if path.is_dir() else path.parent / MANIFEST
    try:
        target = json.loads(manifest.read_text(encoding="utf-8")).get("target", {})
        return TypeAdapter(Regression).validate_python(target.get("regression", {}))
    except FileNotFoundError:
        return Regression()
    except (OSError, ValueError, AttributeError, ValidationError) as error:
        raise UsageError(f"{manifest} is not a bundle's manifest: {error}", "build the bundle again") from error


def against(report: Report, baseline: Report, target: Target) -> Report:
    """The report with what changed since a baseline, judged by that too.

    Raises:
        UsageError: the baseline is of another target.
    """
    if baseline.target != report.target:
        raise UsageError(
            f"the baseline is of {baseline.target}, this is {report.target}", "name a bundle of the same target"
        )
    change = compare_reports(baseline, report, target.regression)
    devices = with_regressions(report.devices, change)
    verdict, sentence = headline(target, devices)
    return dataclasses.replace(report, devices=devices, change=change, verdict=verdict, headline=sentence)
