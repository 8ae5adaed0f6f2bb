"""`tapeout validate BUNDLE --on DEVICE`: measure a bundle's packages on the device, over SSH."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tapeout.baseline import against
from tapeout.bundle import write_reports
from tapeout.remote_merge import Merge
from tapeout.remote_needs import wanted_packages
from tapeout.remote_place import Place
from tapeout.remote_visit import Visit
from tapeout.revalidate import open_bundle
from targets.errors import TapeoutError
from validate.report import Report

Say = Callable[[str], None]


@dataclass(frozen=True)
class Validated:
    """A validation on a device.

    Attributes:
        report: the bundle's, with the device's figures.
        errors: what kept single packages from being measured there.
    """

    report: Report
    errors: tuple[TapeoutError, ...]


def validate_on(
    place: Place, bundle: Path, out: Path, devices: Sequence[str], say: Say, baseline: Report | None = None
) -> Validated:
    """Measure the packages of `bundle` on the device, merge the figures into its report and write that to `out`.

    Args:
        place: the device, and where Tapeout may work on it.
        bundle: a finished bundle; it is not changed.
        out: folder for the reports.
        devices: which devices of the target it is; when empty, those it can be only one of.
        say: told what happens.
        baseline: an earlier report that this one may not be worse than.

    Raises:
        UsageError: `out` lies inside the bundle, or nothing of it can be measured there.
        DeviceMissing: the device, a runtime or its right version is not there.
        IntegrityError: a file is not as the manifest says, or the device's host key is not the known one.
        NoSpace: the device is full.
        WorkerLost: the connection was lost for good.
    """
    opened = open_bundle(bundle, out)
    asked, left = wanted_packages(opened.target, opened.manifest["packages"], devices)
    found = Visit(place, bundle, opened.manifest, opened.target, asked, say).run()
    found.left.update(left)
    report = Merge(place.host, opened.target, bundle, opened.manifest, opened.report, found).merged()
    if baseline is not None:
        report = against(report, baseline, opened.target)
    out.mkdir(parents=True, exist_ok=True)
    write_reports(report, out)
    return Validated(report, tuple(found.failed.values()))
