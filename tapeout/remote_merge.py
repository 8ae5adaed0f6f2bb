"""What a device measured -> the bundle's report again: its packages judged by those figures, the rest as it was."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tapeout.code_version import tool_version
from tapeout.remote_visit import Found
from tapeout.revalidate import load_package
from targets.errors import TapeoutError
from targets.probe import Host, differences, same_kind
from targets.status import Status, Verdict, combine
from targets.target import Device, Runtime, Target
from validate.assemble import Built, headline, report_runtime
from validate.measure import Measured
from validate.package_measurement import Measurement
from validate.report import DeviceReport, Failure, Report, RuntimeReport

DIGITS = 12  # of a digest, where a person compares it


@dataclass(frozen=True)
class Merge:
    """A bundle and what a visit found.

    Attributes:
        host: the device, as the user named it.
        target: of the bundle.
        bundle: its folder.
        manifest: of the bundle.
        report: of the bundle.
        found: by the visit.
    """

    host: str
    target: Target
    bundle: Path
    manifest: Mapping[str, Any]
    report: Report
    found: Found

    def merged(self) -> Report:
        """The bundle's report with the device's figures in place of the build's."""
        built = {path: self.built(path) for path in self.manifest["packages"]}
        devices = tuple(self.device(device, report, built) for device, report in self.pairs())
        verdict, sentence = headline(self.target, devices)
        taken = [measured.taken for measured in self.found.measured.values()]
        return dataclasses.replace(
            self.report,
            verdict=verdict,
            headline=sentence,
            devices=devices,
            change=None,
            assumptions=(*self.report.assumptions, *self.notes()),
            tapeout=tool_version("tapeout"),
            created=max([self.report.created, *taken]),
        )

    def pairs(self) -> list[tuple[Device, DeviceReport]]:
        """Each device of the target with its report."""
        return list(zip(self.target.devices, self.report.devices, strict=True))

    def built(self, path: str) -> Built:
        """A package with the newest figures there are."""
        package = self.manifest["packages"][path]
        loaded = load_package(package, self.bundle / path)
        device = next(each for each in self.target.devices if each.name == package["device"])
        measured = self.found.measured.get(path)
        figures = self.earlier(path) if measured is None else self.signed(measured, device)
        return Built(device.name, loaded.backend, package["recipe"], loaded, package["digest"], figures)

    def earlier(self, path: str) -> Measurement:
        """A package's figures from the build."""
        runtimes = (runtime for device in self.report.devices for runtime in device.runtimes)
        carried = next(runtime.carried for runtime in runtimes if runtime.folder == path)
        return carried.measurement if carried is not None else Measurement()

    def signed(self, measured: Measured, device: Device) -> Measurement:
        """Figures with the machine they are from, and `measured` when that is the device."""
        figures = measured.measurement
        origin = {"machine": self.host, "tapeout": f"{tool_version('tapeout')} {self.found.program[:DIGITS]}"}
        is_device = figures.ran is Status.HOST_MEASURED and not contradictions(figures, device)
        ran = Status.MEASURED if is_device else figures.ran
        return dataclasses.replace(figures, ran=ran, host={**figures.host, **origin})

    def device(self, device: Device, report: DeviceReport, built: Mapping[str, Built]) -> DeviceReport:
        """One device: the runtimes that were measured there judged anew."""
        runtimes = tuple(
            self.runtime(device, runtime, earlier, built)
            for runtime, earlier in zip(device.runtimes, report.runtimes, strict=True)
        )
        verdict = combine(runtime.verdict for runtime in runtimes)
        first = next(runtime for runtime in runtimes if runtime.verdict == verdict)
        return dataclasses.replace(report, verdict=verdict, reason=first.reason, runtimes=runtimes)

    def runtime(
        self, device: Device, runtime: Runtime, earlier: RuntimeReport, built: Mapping[str, Built]
    ) -> RuntimeReport:
        """One runtime, judged by the device's figures where there are any."""
        path = earlier.folder
        if path in self.found.failed:
            return failed_there(earlier, self.found.failed[path], self.host)
        if path in self.found.left:
            reason = f"{earlier.reason}; not measured on {self.host}: {self.found.left[path]}"
            return dataclasses.replace(earlier, reason=reason)
        if path not in self.found.measured:
            return earlier
        others = [each for name, each in built.items() if each.device == device.name and name != path]
        # Of its own ladder only this rung is in the bundle; the others' weights are what it is compared with.
        judged = report_runtime(
            target=self.target, device=device, runtime=runtime, built=[built[path], *others], failures=()
        )
        (anew,) = judged.candidates
        candidates = tuple(anew if candidate.carried else candidate for candidate in earlier.candidates)
        return dataclasses.replace(judged, candidates=candidates, folder=path, failures=earlier.failures)

    def notes(self) -> list[str]:
        """Which figures are from where, one sentence a package."""
        notes = []
        for path, measured in self.found.measured.items():
            device = next(
                each for each in self.target.devices if each.name == self.manifest["packages"][path]["device"]
            )
            figures = self.signed(measured, device)
            notes.append(
                f"{path}: {figures.ran or Status.PREPARED} on {self.host} ({describe(figures)}) at {measured.taken}"
                f" by Tapeout {figures.host['tapeout']}."
            )
            unlike = "; ".join(contradictions(figures, device)).replace("this host", self.host)
            if unlike:
                notes.append(f"{path}: {self.host} is not taken for the device {device.name}: {unlike}.")
        reasons = {path: error.what for path, error in self.found.failed.items()} | self.found.left
        notes += [
            f"{path}: not measured on {self.host}: {reason}. Its figures are the build's, of {self.report.created}."
            for path, reason in reasons.items()
        ]
        return notes


def failed_there(earlier: RuntimeReport, error: TapeoutError, host: str) -> RuntimeReport:
    """A package that the device could not run keeps its figures, but no PASS stands against what was seen."""
    carried = earlier.carried
    scheme = carried.scheme if carried is not None else ""
    failure = Failure(scheme, "measure", type(error).__name__, error.what, error.help)
    return dataclasses.replace(
        earlier,
        verdict=Verdict.FAIL if earlier.verdict is Verdict.FAIL else Verdict.INCOMPLETE,
        reason=f"did not run on {host}: {error.what}",
        next_step=error.help,
        failures=(*earlier.failures, failure),
    )


def contradictions(figures: Measurement, device: Device) -> list[str]:
    """What shows that the machine behind `figures` is not the product's `device`; [] when nothing does."""
    if device.kind != "cpu":
        return []  # its runtime says that it ran on one, and the user which
    fields = [field.name for field in dataclasses.fields(Host)]
    host: Host = TypeAdapter(Host).validate_python({name: figures.host[name] for name in fields})
    found = list(differences(host, device))
    if not same_kind(host, device):
        found.append(f"it is {host.architecture}" if host.architecture != device.architecture else "it has no AVX2")
    if device.vendor != "any" and host.cpu_model and device.vendor.lower() not in host.cpu_model.lower():
        found.append(f"its processor is {host.cpu_model}")
    return found


def describe(figures: Measurement) -> str:
    """The machine in a few words."""
    host = figures.host
    words = [host.get("cpu_model") or host.get("architecture"), f"{host.get('os')} {host.get('kernel')}"]
    return ", ".join(str(word) for word in [*words, f"Python {host.get('python')}"])
