"""What changed since a baseline -> gates: a package that is worse beyond its bounds does not ship."""

import dataclasses

from targets.status import Verdict, combine
from validate.assemble import explain
from validate.change import Change, Delta, PackageChange
from validate.judge import verdict_of
from validate.report import Candidate, DeviceReport, GateResult, RuntimeReport

PREFIX = "regression"


def with_regressions(devices: tuple[DeviceReport, ...], change: Change) -> tuple[DeviceReport, ...]:
    """The devices with a gate for every bounded figure of the packages in the bundle, judged by those too."""
    by_place = {(package.device, package.backend): package for package in change.packages}
    found = []
    for device in devices:
        runtimes = tuple(
            with_package(device.name, runtime, by_place[device.name, runtime.backend]) for runtime in device.runtimes
        )
        verdict = combine(runtime.verdict for runtime in runtimes)
        first = next(runtime for runtime in runtimes if runtime.verdict == verdict)
        found.append(dataclasses.replace(device, verdict=verdict, reason=first.reason, runtimes=runtimes))
    return tuple(found)


def with_package(device: str, runtime: RuntimeReport, package: PackageChange) -> RuntimeReport:
    """One runtime: what is carried is judged by its regressions too."""
    carried = runtime.carried
    results = tuple(gate_of(delta) for delta in package.deltas if delta.verdict is not None)
    if carried is None or not results:
        return runtime
    judged = judge_again(carried, results)
    verdict = Verdict.FAIL if runtime.verdict is Verdict.FAIL else judged.verdict
    candidates = tuple(judged if candidate.carried else candidate for candidate in runtime.candidates)
    changed = judged.verdict is not carried.verdict
    place = "rejected" if judged.verdict is Verdict.FAIL else "packages"
    return dataclasses.replace(
        runtime,
        verdict=verdict,
        reason=judged.why if changed else runtime.reason,
        next_step=next_step(runtime, judged) if changed else runtime.next_step,
        candidates=candidates,
        folder=f"{place}/{device}-{runtime.backend}",
    )


def judge_again(candidate: Candidate, results: tuple[GateResult, ...]) -> Candidate:
    """A candidate with more gates."""
    gates = (*(gate for gate in candidate.gates if not gate.name.startswith(f"{PREFIX}.")), *results)
    verdict = verdict_of(gates)
    if verdict is candidate.verdict:
        return dataclasses.replace(candidate, gates=gates)
    ships = verdict is Verdict.PASS and candidate.ships
    why = explain(ships, verdict, gates, [], None)
    return dataclasses.replace(candidate, gates=gates, verdict=verdict, ships=ships, why=why)


def next_step(runtime: RuntimeReport, judged: Candidate) -> str | None:
    """What turns the verdict into a PASS."""
    if judged.verdict is Verdict.FAIL:
        return "find what made it worse than the baseline, or allow it in the target's [regression]"
    if judged.verdict is Verdict.INCOMPLETE:
        return "measure the baseline and this build on one quiet machine, with the same versions"
    return runtime.next_step


def gate_of(delta: Delta) -> GateResult:
    """A bounded figure as a gate: a ratio, or the loss of a share."""
    assert delta.verdict is not None  # noqa: S101 - the caller asks for bounded figures
    assert delta.bound is not None  # noqa: S101
    value = delta.change if delta.kind == "ratio" or delta.change is None else -delta.change
    reason = delta.why
    if delta.verdict is Verdict.FAIL:
        reason = (
            f"{delta.name} is worse than the baseline: {delta.before:.4g}, now {delta.after:.4g} {delta.unit}".rstrip()
        )
    elif delta.verdict is Verdict.INCOMPLETE and delta.change is None:
        reason = f"not comparable with the baseline: {delta.why}"
    return GateResult(f"{PREFIX}.{delta.name}", delta.verdict, value, delta.bound, "max", "", reason)
