"""Two reports -> what changed between them, figure by figure, and whether it matters."""

import dataclasses
from collections.abc import Collection, Iterator, Sequence

from targets.regression import Regression
from targets.status import Verdict
from validate.change import Change, Delta, PackageChange
from validate.comparable import fidelity_differs, latency_differs
from validate.compare_figures import MINIMAL_EFFECT, fidelity_deltas, gate_deltas, latency_deltas, single_deltas
from validate.report import Candidate, Report, RuntimeReport
from validate.significance import Outcome

Place = tuple[str, str]


def compare_reports(before: Report, after: Report, bounds: Regression, across: Collection[str] = ()) -> Change:
    """What changed from `before` to `after`.

    Args:
        before: the baseline.
        after: what is judged.
        bounds: how much worse it may be.
        across: differences that are compared over all the same, of `comparable.DIFFERENCES`.
    """
    ours, theirs = runtimes_of(after), runtimes_of(before)
    names = [[device.name for device in report.devices] for report in (before, after)]
    packages = []
    for place in [*ours, *(place for place in theirs if place not in ours)]:
        found = compare_runtimes(place, theirs.get(place), ours.get(place))
        one, other = carried(theirs.get(place)), carried(ours.get(place))
        if one is not None and other is not None:
            deltas = tuple(judged(delta, bounds) for delta in compare_candidates((before, one), (after, other), across))
            found = dataclasses.replace(found, deltas=deltas)
        packages.append(found)
    return Change(
        baseline={
            "target": before.target,
            "model": str(before.model.get("name", "")),
            "created": before.created,
            "tapeout": before.tapeout,
            "verdict": before.verdict.value,
        },
        devices_added=tuple(name for name in names[1] if name not in names[0]),
        devices_removed=tuple(name for name in names[0] if name not in names[1]),
        effect=MINIMAL_EFFECT,
        packages=tuple(packages),
    )


def runtimes_of(report: Report) -> dict[Place, RuntimeReport]:
    """Every runtime of a report by its device and back end."""
    return {(device.name, runtime.backend): runtime for device in report.devices for runtime in device.runtimes}


def carried(runtime: RuntimeReport | None) -> Candidate | None:
    """The package that a runtime has in the bundle."""
    return runtime.carried if runtime is not None else None


def compare_runtimes(place: Place, before: RuntimeReport | None, after: RuntimeReport | None) -> PackageChange:
    """What can be said without figures."""
    one, other = carried(before), carried(after)
    old = {gate.name for gate in one.gates} if one else set()
    new = {gate.name for gate in other.gates if not gate.name.startswith("regression.")} if other else set()
    return PackageChange(
        device=place[0],
        backend=place[1],
        scheme_before=one.scheme if one else None,
        scheme_after=other.scheme if other else None,
        verdict_before=before.verdict if before else None,
        verdict_after=after.verdict if after else None,
        weights=same_bytes(one.weights_digest if one else None, other.weights_digest if other else None),
        package=same_bytes(one.package_digest if one else None, other.package_digest if other else None),
        gates_added=tuple(sorted(new - old)) if one and other else (),
        gates_removed=tuple(sorted(old - new)) if one and other else (),
        deltas=(),
    )


def same_bytes(before: str | None, after: str | None) -> str:
    """What two digests say of what they are of."""
    if before is None or after is None:
        return "none" if before == after else "new" if before is None else "removed"
    return "identical" if before == after else "changed"


def compare_candidates(
    before: tuple[Report, Candidate], after: tuple[Report, Candidate], across: Collection[str]
) -> Iterator[Delta]:
    """Every figure of a package: fidelity on the same texts, latency on the same machine, the rest as it stands."""
    old, new = before[1], after[1]
    texts = fidelity_differs(before[0], after[0])
    machine = latency_differs(old.measurement, new.measurement, across)
    found = [
        *fidelity_deltas(old.measurement, new.measurement, texts),
        *latency_deltas(old.measurement, new.measurement, machine),
        *single_deltas(old, new, machine),
    ]
    yield from found
    yield from gate_deltas(old, new, {delta.name for delta in found}, texts or machine)


def judged(delta: Delta, bounds: Regression) -> Delta:
    """A figure held against what the target allows."""
    bound = bound_of(delta.name, bounds)
    if bound is None:
        return delta
    if delta.outcome is Outcome.NOT_COMPARABLE or delta.change is None:
        return dataclasses.replace(delta, bound=bound, verdict=Verdict.INCOMPLETE)
    # Agreement falls where it gets worse; everything else that has a bound rises.
    worse = -delta.change if delta.kind == "difference" else delta.change
    if worse <= bound:
        return dataclasses.replace(delta, bound=bound, verdict=Verdict.PASS)
    if delta.outcome is Outcome.WORSE:
        return dataclasses.replace(delta, bound=bound, verdict=Verdict.FAIL)
    why = "beyond the bound, and within noise: measure more rounds"
    return dataclasses.replace(delta, bound=bound, verdict=Verdict.INCOMPLETE, why=why)


def bound_of(name: str, bounds: Regression) -> float | None:
    """The bound on a figure; None when it has none."""
    stem, _, rest = name.partition(".")
    by_name = {
        "ttft_ms": bounds.ttft_ratio_max,
        "tpot_ms": bounds.tpot_ratio_max,
        "peak_memory_mb": bounds.memory_ratio_max,
        "package_mb": bounds.size_ratio_max,
        "kl_mean": bounds.kl_ratio_max,
        "top1": bounds.top1_loss_max,
    }
    return by_name.get(rest if stem in {"weights", "deployed"} else stem)


def regressions(change: Change) -> Sequence[str]:
    """One sentence for each thing that got worse beyond what is allowed."""
    found = []
    for package in change.packages:
        where = f"{package.device} {package.backend}"
        if package.verdict_before is Verdict.PASS and package.verdict_after in (None, Verdict.FAIL):
            found.append(f"{where}: passed before, now {package.verdict_after or 'gone'}")
        found += [
            f"{where}: {delta.name} {delta.kind} is {delta.change:.4g}, at most {delta.bound:g} is allowed"
            if delta.kind == "ratio"
            else f"{where}: {delta.name} fell by {-(delta.change or 0.0):.4g}, at most {delta.bound:g} is allowed"
            for delta in package.deltas
            if delta.verdict is Verdict.FAIL
        ]
    return found
