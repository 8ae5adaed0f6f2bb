"""Measured candidates of a target -> per-device reports: which package ships, which does not, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compile.package import Package
from targets.gates import Gates
from targets.legality import precision_of
from targets.status import Verdict, combine
from targets.target import Device, Runtime, Target
from validate.judge import judge, verdict_of
from validate.measurement import Measurement
from validate.report import Candidate, DeviceReport, GateResult, RuntimeReport

SHOWN_GATES = 3


@dataclass(frozen=True)
class Built:
    """A package that was built and measured, before it is judged.

    Attributes:
        device: name of the device.
        backend: its runtime.
        scheme: its scheme.
        package: the package.
        package_digest: of its files.
        measurement: the figures.
    """

    device: str
    backend: str
    scheme: str
    package: Package
    package_digest: str
    measurement: Measurement


def assemble_devices(target: Target, built: Sequence[Built]) -> tuple[DeviceReport, ...]:
    """Judge every candidate and let the smallest that passes ship, runtime by runtime."""
    return tuple(
        report_device(target, device, [each for each in built if each.device == device.name])
        for device in target.devices
    )


def report_device(target: Target, device: Device, built: Sequence[Built]) -> DeviceReport:
    """One device: it passes when every runtime it has passes."""
    runtimes = tuple(report_runtime(target, device, runtime, built) for runtime in device.runtimes)
    verdict = combine(runtime.verdict for runtime in runtimes)
    first = next(runtime for runtime in runtimes if runtime.verdict == verdict)
    return DeviceReport(device.name, device.kind, device.vendor, device.generation, verdict, first.reason, runtimes)


def report_runtime(target: Target, device: Device, runtime: Runtime, built: Sequence[Built]) -> RuntimeReport:
    """One runtime: its candidates judged, the first that passes ships."""
    if runtime.status is None:
        reason = runtime.missing or "no package was built"
        return RuntimeReport(runtime.backend, None, Verdict.INCOMPLETE, reason, runtime.next_step, (), None)
    ours = [each for each in built if each.backend == runtime.backend]
    judged = [judge_built(each, target.gates[precision_of(each.scheme)], built) for each in ours]
    candidates = choose_shipped(ours, judged)
    shipped = next((candidate for candidate in candidates if candidate.ships), None)
    if shipped is not None:
        folder = f"packages/{device.name}-{runtime.backend}"
        return RuntimeReport(runtime.backend, runtime.status, Verdict.PASS, shipped.why, None, candidates, folder)
    verdict = combine(candidate.verdict for candidate in candidates)
    status = runtime.status if candidates else None
    reasons = "; ".join(f"{candidate.scheme}: {candidate.why}" for candidate in candidates) or "no package was built"
    step = "try another scheme, or a larger model" if verdict is Verdict.FAIL else "measure it where its runtime is"
    return RuntimeReport(runtime.backend, status, verdict, reasons, step, candidates, None)


def judge_built(built: Built, gates: Gates, others: Sequence[Built]) -> tuple[GateResult, ...]:
    """Hold one package against its gates, and against the same weights in the device's other runtime."""
    same = [each for each in others if each.scheme == built.scheme and each.backend != built.backend]
    kl = [each.measurement.fidelity["weights"].kl_mean for each in same if "weights" in each.measurement.fidelity]
    return judge(built.measurement, built.package.package_bytes, gates, kl[0] if kl else None)


def choose_shipped(built: Sequence[Built], judged: Sequence[tuple[GateResult, ...]]) -> tuple[Candidate, ...]:
    """Candidates in ladder order; the first whose gates all pass ships."""
    verdicts = [verdict_of(gates) for gates in judged]
    chosen = next((index for index, verdict in enumerate(verdicts) if verdict is Verdict.PASS), None)
    candidates = []
    for index, (each, gates, verdict) in enumerate(zip(built, judged, verdicts, strict=True)):
        smaller = [other.scheme for other in built[:index]]
        why = explain(index == chosen, verdict, gates, smaller, built[chosen].scheme if chosen is not None else None)
        candidates.append(make_candidate(each, gates, verdict, index == chosen, why))
    return tuple(candidates)


def explain(
    ships: bool, verdict: Verdict, gates: tuple[GateResult, ...], smaller: Sequence[str], shipped: str | None
) -> str:
    """One sentence: why a candidate ships or does not."""
    if ships:
        return f"ships: passes every gate{', ' + ' and '.join(smaller) + ' does not' if smaller else ''}"
    if verdict is Verdict.PASS:
        return f"passes every gate, but {shipped} is smaller and passes too"
    failed = [gate for gate in gates if gate.verdict is Verdict.FAIL]
    if failed:
        more = f", and {len(failed) - 1} more gates failed" if len(failed) > 1 else ""
        return f"does not ship: {failed[0].reason}{more}"
    missing = [gate.name for gate in gates if gate.verdict is Verdict.INCOMPLETE]
    shown = ", ".join(missing[:SHOWN_GATES]) + (", ..." if len(missing) > SHOWN_GATES else "")
    return f"cannot be judged: {len(missing)} gates have no measurement ({shown})"


def make_candidate(built: Built, gates: tuple[GateResult, ...], verdict: Verdict, ships: bool, why: str) -> Candidate:
    """The candidate as the report has it."""
    package = built.package
    settings: dict[str, Any] = dict(package.settings)
    return Candidate(
        backend=built.backend,
        scheme=built.scheme,
        precision=precision_of(built.scheme),
        verdict=verdict,
        ships=ships,
        why=why,
        package_bytes=package.package_bytes,
        package_digest=built.package_digest,
        weights_digest=package.weights_digest,
        checks=dict(package.checks),
        settings=settings,
        measurement=built.measurement,
        gates=gates,
    )


def headline(target: Target, devices: Sequence[DeviceReport]) -> tuple[Verdict, str]:
    """The bundle's verdict and one sentence that says what to do."""
    verdict = combine(device.verdict for device in devices)
    passed = [device.name for device in devices if device.verdict is Verdict.PASS]
    failed = [device.name for device in devices if device.verdict is Verdict.FAIL]
    missing = [device.name for device in devices if device.verdict is Verdict.INCOMPLETE]
    if verdict is Verdict.PASS:
        return verdict, f"Ship: every gate of every device of {target.name} passed."
    if verdict is Verdict.FAIL:
        return verdict, f"Do not ship: {' and '.join(failed)} failed."
    ready = f"{' and '.join(passed)} can ship; " if passed else ""
    return (
        verdict,
        f"Still missing: {ready}{' and '.join(missing)} {'has' if len(missing) == 1 else 'have'} no evidence yet.",
    )
