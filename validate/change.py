"""What changed between two reports, as data: every figure with its significance and what is allowed."""

from dataclasses import dataclass

from targets.status import Verdict
from validate.significance import Outcome


@dataclass(frozen=True)
class Delta:
    """One figure of one package, before and after.

    Attributes:
        name: as its gate is called, `tpot_ms.512` where there is none.
        unit: of `before` and `after`.
        before: in the baseline; None when it was not measured.
        after: now; None when it is not measured.
        kind: `ratio` (after over before) or `difference` (after minus before): what `change`, its ends and `bound` are.
        change: ratio or difference; None when a figure is missing.
        low: lower end of its 95 % confidence interval; None for a figure without samples.
        high: upper end of it.
        p_value: two-sided, corrected by Holm's method among the package's figures of its kind; None without samples.
        outcome: better, worse, the same within noise, or not comparable.
        why: one sentence for what is not comparable.
        bound: what the target allows; None when it sets no bound.
        verdict: of that bound: INCOMPLETE when the figures are not comparable, or beyond it within noise.
    """

    name: str
    unit: str
    before: float | None
    after: float | None
    kind: str
    change: float | None
    low: float | None
    high: float | None
    p_value: float | None
    outcome: Outcome
    why: str | None = None
    bound: float | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True)
class PackageChange:
    """One runtime's package, before and after.

    Attributes:
        device: name of the device.
        backend: its runtime.
        scheme_before: scheme of the package in the baseline; None when it had none.
        scheme_after: of the package now; None when there is none.
        verdict_before: of the runtime in the baseline; None when the baseline has no such runtime.
        verdict_after: of the runtime now; None when there is no such runtime any more.
        weights: `identical` or `changed` by digest, `new`, `removed` or `none`.
        package: the same of the package's files.
        gates_added: gates that the baseline did not have.
        gates_removed: gates that only the baseline had.
        deltas: its figures.
    """

    device: str
    backend: str
    scheme_before: str | None
    scheme_after: str | None
    verdict_before: Verdict | None
    verdict_after: Verdict | None
    weights: str
    package: str
    gates_added: tuple[str, ...]
    gates_removed: tuple[str, ...]
    deltas: tuple[Delta, ...]

    @property
    def regressed(self) -> bool:
        """A figure is worse beyond its bound, or what passed is gone or fails."""
        lost = self.verdict_before is Verdict.PASS and self.verdict_after in (None, Verdict.FAIL)
        return lost or any(delta.verdict is Verdict.FAIL for delta in self.deltas)


@dataclass(frozen=True)
class Change:
    """Everything that changed since a baseline.

    Attributes:
        baseline: what it is: target, model, created, tapeout, verdict.
        devices_added: devices that the baseline did not have.
        devices_removed: devices that only the baseline had.
        effect: smallest difference that counts, as a share.
        packages: by device and runtime.
    """

    baseline: dict[str, str]
    devices_added: tuple[str, ...]
    devices_removed: tuple[str, ...]
    effect: float
    packages: tuple[PackageChange, ...]

    @property
    def regressed(self) -> bool:
        """Some package did."""
        return any(package.regressed for package in self.packages)
