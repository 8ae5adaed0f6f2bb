"""Measured candidates of a target -> per-device reports: which package ships, which does not, and why."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compile.package import Package
from targets.errors import DeviceMissing, NotForModel
from targets.gates import Gates
from targets.legality import precision_of
from targets.status import Status, Verdict, combine
from targets.target import Device, Runtime, Target
from validate.judge import judge, verdict_of
from validate.package_measurement import Measurement
from validate.report import Candidate, DeviceReport, Failure, GateResult, RuntimeReport

SHOWN_GATES = 3
SEARCH = "look for a recipe that passes with precision=auto (tapeout search), or build a larger model"
MEASURED = (Status.MEASURED, Status.HOST_MEASURED)


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


@dataclass(frozen=True)
class NotBuilt:
    """A package that a stage could not make or measure."""

    device: str
    backend: str
    failure: Failure


def assemble_devices(
    target: Target, built: Sequence[Built], not_built: Sequence[NotBuilt] = ()
) -> tuple[DeviceReport, ...]:
    """Judge every candidate and let the smallest that passes ship, runtime by runtime."""
    return tuple(
        report_device(
            target,
            device,
            [each for each in built if each.device == device.name],
            [each for each in not_built if each.device == device.name],
        )
        for device in target.devices
    )


def report_device(
    target: Target, device: Device, built: Sequence[Built], not_built: Sequence[NotBuilt]
) -> DeviceReport:
    """One device: it passes when every runtime it has passes."""
    runtimes = tuple(
        report_runtime(
            target, device, runtime, built, tuple(each.failure for each in not_built if each.backend == runtime.backend)
        )
        for runtime in device.runtimes
    )
    verdict = combine(runtime.verdict for runtime in runtimes)
    first = next(runtime for runtime in runtimes if runtime.verdict == verdict)
    return DeviceReport(device.name, device.kind, device.vendor, device.generation, verdict, first.reason, runtimes)


def report_runtime(
    target: Target, device: Device, runtime: Runtime, built: Sequence[Built], failures: tuple[Failure, ...]
) -> RuntimeReport:
    """One runtime: its candidates judged; the first that passes ships, else the best of the others is carried."""
    if runtime.status is None:
        reason = runtime.missing or "no package was built"
        return RuntimeReport(runtime.backend, None, Verdict.INCOMPLETE, reason, runtime.next_step, (), None)
    ours = [each for each in built if each.backend == runtime.backend]
    judged = [judge_built(each, target.gates[precision_of(each.scheme)], built, runtime.off_device) for each in ours]
    candidates = choose_carried(ours, judged, runtime)
    carried = next((candidate for candidate in candidates if candidate.carried), None)
    verdict = verdict_over(carried, failures)
    packages = "rejected" if carried is not None and carried.verdict is Verdict.FAIL else "packages"
    waits = next((each.package.next_step for each in ours if each.package.next_step), None)
    return RuntimeReport(
        backend=runtime.backend,
        status=carried.evidence[0] if carried is not None and carried.evidence else None,
        verdict=verdict,
        reason=carried.why if carried is not None and carried.ships else reasons(candidates, failures),
        next_step=next_step(verdict, failures, waits),
        candidates=candidates,
        folder=f"{packages}/{device.name}-{runtime.backend}" if carried is not None else None,
        failures=failures,
    )


def verdict_over(carried: Candidate | None, failures: Sequence[Failure]) -> Verdict:
    """Of the candidate that is carried; without one, FAIL unless all that failed was a missing device or runtime."""
    if carried is not None:
        return carried.verdict
    return Verdict.FAIL if any(each.error != DeviceMissing.__name__ for each in failures) else Verdict.INCOMPLETE


def reasons(candidates: Sequence[Candidate], failures: Sequence[Failure]) -> str:
    """Why nothing ships, candidate by candidate."""
    said = [f"{candidate.scheme}: {candidate.why}" for candidate in candidates]
    said += [f"{failure.scheme}: {outcome(failure)}: {failure.what}" for failure in failures]
    return "; ".join(said) or "no package was built"


def outcome(failure: Failure) -> str:
    """What became of a package that is not there, in two or three words."""
    return "not made" if failure.error == NotForModel.__name__ else f"{failure.stage} failed"


def next_step(verdict: Verdict, failures: Sequence[Failure], waits: str | None) -> str | None:
    """What turns the verdict into a PASS."""
    if verdict is Verdict.PASS:
        return None
    if verdict is Verdict.FAIL:
        return (
            failures[0].help
            if failures
            else "look for a recipe that passes with precision=auto (tapeout search), or build a larger model"
        )
    if waits is None and failures:
        return failures[0].help
    return waits or "measure it where its runtime is"


def judge_built(
    built: Built, gates: Gates, others: Sequence[Built], off_device: Sequence[str]
) -> tuple[GateResult, ...]:
    """Hold one package against its gates, and against the same weights in the device's other runtime."""
    ours = built.package.weights_digest
    same = [each for each in others if each.backend != built.backend and each.package.weights_digest == ours]
    same = [each for each in same if each.scheme == built.scheme]
    kl = [each.measurement.fidelity["weights"].kl_mean for each in same if "weights" in each.measurement.fidelity]
    return judge(built.measurement, built.package.package_bytes, gates, kl[0] if kl else None, off_device)


def choose_carried(
    built: Sequence[Built], judged: Sequence[tuple[GateResult, ...]], runtime: Runtime
) -> tuple[Candidate, ...]:
    """Candidates in ladder order. The first whose gates all pass ships and is carried in the bundle.

    Without one, the first that only lacks evidence is carried; without one of those, the last, as a rejected one.
    """
    verdicts = [verdict_of(gates) for gates in judged]
    chosen = next((index for index, verdict in enumerate(verdicts) if verdict is Verdict.PASS), None)
    waiting = next((index for index, verdict in enumerate(verdicts) if verdict is Verdict.INCOMPLETE), len(built) - 1)
    carried = waiting if chosen is None else chosen
    candidates = []
    for index, (each, gates, verdict) in enumerate(zip(built, judged, verdicts, strict=True)):
        smaller = [other.scheme for other in built[:index]]
        why = explain(index == chosen, verdict, gates, smaller, built[chosen].scheme if chosen is not None else None)
        made = make_candidate(each, gates, verdict, why, evidence_of(each, runtime))
        candidates.append(dataclasses.replace(made, ships=index == chosen, carried=index == carried))
    return tuple(candidates)


def evidence_of(built: Built, runtime: Runtime) -> tuple[Status, ...]:
    """What is proved of a package: by running it, by making it; the furthest first."""
    ran, made = built.measurement.ran, built.package.evidence
    if ran is Status.HOST_MEASURED and runtime.status in MEASURED:
        ran = runtime.status  # whether this host counts as the device is the target's to say
    if ran is None and not made and built.measurement.fidelity:
        made = (Status.PREPARED,)
    found = [*(made if ran is None else (ran, *made))]
    order = list(Status)
    return tuple(sorted(dict.fromkeys(found), key=order.index)) or ((runtime.status,) if runtime.status else ())


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
    if shipped is not None:
        return f"not measured further: {shipped} is smaller and passes"
    missing = [gate.name for gate in gates if gate.verdict is Verdict.INCOMPLETE]
    shown = ", ".join(missing[:SHOWN_GATES]) + (", ..." if len(missing) > SHOWN_GATES else "")
    return f"cannot be judged: {len(missing)} gates have no measurement ({shown})"


def make_candidate(
    built: Built, gates: tuple[GateResult, ...], verdict: Verdict, why: str, evidence: tuple[Status, ...]
) -> Candidate:
    """The candidate as the report has it, not yet chosen."""
    package = built.package
    settings: dict[str, Any] = dict(package.settings)
    return Candidate(
        backend=built.backend,
        scheme=built.scheme,
        precision=precision_of(built.scheme),
        verdict=verdict,
        ships=False,
        carried=False,
        why=why,
        package_bytes=package.package_bytes,
        package_digest=built.package_digest,
        weights_digest=package.weights_digest,
        checks=dict(package.checks),
        settings=settings,
        evidence=evidence,
        requires=dict(package.requires),
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
