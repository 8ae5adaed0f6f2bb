"""Soak a finished bundle on this machine and merge what was seen into its report."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tapeout.bundle import REPORT, write_reports
from tapeout.code_version import tool_version
from tapeout.revalidate import Opened, load_package, open_bundle
from targets.errors import DeviceMissing, UsageError
from targets.names import suggestion
from targets.status import combine
from targets.target import Device, Runtime
from validate.assemble import Built, headline, report_runtime
from validate.measure import ROOM, now
from validate.package_measurement import Measurement
from validate.regress import with_regressions
from validate.report import DeviceReport, Report, RuntimeReport, read_report
from validate.runtime import find_runtime
from validate.soak import Subject, soak
from validate.soak_figures import Soak, SoakPlan

Say = Callable[[str], None]

FOLDER = "soak"


def soak_bundle(bundle: Path, out: Path, plan: SoakPlan, chosen: Sequence[str], say: Say) -> Report:
    """Verify the bundle, keep each of its packages busy, and write reports with what was seen to `out`.

    A report of the same packages that `out` holds already is added to, so that a validation on the device and its soak
    are one report.

    Args:
        bundle: a finished bundle.
        out: folder for reports, and for one JSON a package below `soak/`.
        plan: how long and with what.
        chosen: names of the target's devices; () for all.
        say: told what happens.

    Raises:
        DeviceMissing: nothing in the bundle runs here.
        IntegrityError: a file is not as the manifest says.
        UsageError: a device that the target has not.
    """
    opened = open_bundle(bundle, out)
    known = [device.name for device in opened.target.devices]
    for name in chosen:
        if name not in known:
            raise UsageError(f"{opened.target.name} has no device '{name}'", suggestion(name, known))
    found: dict[str, Soak] = {}
    for path, package in opened.manifest["packages"].items():
        if chosen and package["device"] not in chosen:
            continue
        runtime = find_runtime(package["backend"])
        if runtime is None or runtime.evidence is not None:
            say(f"{path}: not soaked: its device is not here")
            continue
        found[path] = soak_package(bundle / path, package, plan, say)
    if not found:
        raise DeviceMissing("no package of this bundle runs here", "soak it on the device")
    report = merge(bundle, opened, earlier(out, opened), found)
    out.mkdir(parents=True, exist_ok=True)
    write_reports(report, out)
    for path, seen in found.items():
        place = out / FOLDER / f"{path.replace('/', '-')}.json"
        place.parent.mkdir(exist_ok=True)
        text = json.dumps(dataclasses.asdict(seen), indent=1, sort_keys=True, allow_nan=False)
        place.write_text(text + "\n", encoding="utf-8")
    return report


def soak_package(folder: Path, package: Mapping[str, Any], plan: SoakPlan, say: Say) -> Soak:
    """One package under load."""
    loaded = load_package(package, folder)
    context = int(loaded.settings.get("context", loaded.facts.max_positions))
    fitting = dataclasses.replace(plan, prompt_tokens=min(plan.prompt_tokens, context - plan.new_tokens - ROOM))
    say(f"soak {folder.name} for {plan.minutes:g} minutes")
    told = 0

    def progress(done: float, total: float) -> None:
        nonlocal told
        quarter = int(4 * done / total)
        if told < quarter < 4:
            told = quarter
            say(f"    {25 * quarter} %")

    found = soak(Subject(loaded.backend, folder, loaded.settings, package["digest"]), fitting, progress, now)
    growth = "not measured" if found.memory_growth is None else f"{100 * found.memory_growth:.2g} % in 1,000 requests"
    heat = found.conditions.after.temperature_c
    say(
        f"    {found.requests} requests, {found.rate_first:.3g} tokens/s at first, {found.rate_last:.3g} at the end"
        f" (ratio {found.rate_ratio:.3f}), memory growth {growth},"
        f" {'no temperature sensor' if heat is None else f'{heat:.0f} C'}, energy: {found.energy_sensor}"
    )
    return found


def earlier(out: Path, opened: Opened) -> Report:
    """The report in `out` where it is of the same packages, else the bundle's."""
    if not (out / REPORT).is_file():
        return opened.report
    report = read_report(out / REPORT)
    return report if digests(report) == digests(opened.report) else opened.report


def digests(report: Report) -> dict[str | None, str]:
    """Digest of each carried package by its folder."""
    runtimes = (runtime for device in report.devices for runtime in device.runtimes)
    return {runtime.folder: runtime.carried.package_digest for runtime in runtimes if runtime.carried is not None}


def merge(bundle: Path, opened: Opened, report: Report, found: Mapping[str, Soak]) -> Report:
    """The report with the soaks beside its other figures, judged anew."""
    built = [
        Built(
            device=package["device"],
            backend=package["backend"],
            scheme=package["recipe"],
            package=load_package(package, bundle / path),
            package_digest=package["digest"],
            measurement=figures(report, path, found.get(path)),
        )
        for path, package in opened.manifest["packages"].items()
    ]
    soaked = {
        (opened.manifest["packages"][path]["device"], opened.manifest["packages"][path]["backend"]) for path in found
    }
    devices = tuple(
        judge_device(opened, device, before, [each for each in built if each.device == device.name], soaked)
        for device, before in zip(opened.target.devices, report.devices, strict=True)
    )
    if report.change is not None:
        devices = with_regressions(devices, report.change)
    verdict, sentence = headline(opened.target, devices)
    taken = max(seen.taken for seen in found.values())
    return dataclasses.replace(
        report,
        verdict=verdict,
        headline=sentence,
        devices=devices,
        tapeout=tool_version("tapeout"),
        created=max(report.created, taken),
    )


def figures(report: Report, path: str, seen: Soak | None) -> Measurement:
    """A package's figures, with its soak."""
    runtimes = (runtime for device in report.devices for runtime in device.runtimes)
    carried = next((runtime.carried for runtime in runtimes if runtime.folder == path), None)
    measurement = carried.measurement if carried is not None else Measurement()
    return measurement if seen is None else dataclasses.replace(measurement, soak=seen)


def judge_device(
    opened: Opened, device: Device, before: DeviceReport, built: Sequence[Built], soaked: set[tuple[str, str]]
) -> DeviceReport:
    """One device: its soaked runtimes judged anew."""
    runtimes = tuple(
        judge_runtime(opened, device, runtime, earlier, built) if (device.name, runtime.backend) in soaked else earlier
        for runtime, earlier in zip(device.runtimes, before.runtimes, strict=True)
    )
    verdict = combine(runtime.verdict for runtime in runtimes)
    first = next(runtime for runtime in runtimes if runtime.verdict == verdict)
    return dataclasses.replace(before, verdict=verdict, reason=first.reason, runtimes=runtimes)


def judge_runtime(
    opened: Opened, device: Device, runtime: Runtime, before: RuntimeReport, built: Sequence[Built]
) -> RuntimeReport:
    """One runtime: the package in the bundle with its new figures, its other candidates as they were."""
    judged = report_runtime(opened.target, device, runtime, built, ())
    (anew,) = judged.candidates
    candidates = tuple(anew if candidate.carried else candidate for candidate in before.candidates)
    return dataclasses.replace(judged, candidates=candidates, folder=before.folder, failures=before.failures)
