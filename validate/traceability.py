"""From requirement to gate, figure, data and package, and back: the rows of the matrix, and what has no counterpart."""

import csv
import io
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields

from validate import words
from validate.report import GateResult, Report
from validate.safe_text import clean_line

# What a spreadsheet would take for a formula.
FORMULA = ("=", "+", "-", "@", "\t")


@dataclass(frozen=True)
class Trace:
    """One row.

    Attributes:
        requirement: the product's id, empty where the target names none.
        gate: that judges it.
        verdict: of the gate.
        value: measured, empty where it was not.
        bound: what it must reach.
        unit: of both.
        data: digest of what it was measured on.
        package: which package.
        package_digest: of its files.
        decides: the package's gates make its runtime's verdict.
    """

    requirement: str
    gate: str
    verdict: str
    value: str
    bound: str
    unit: str
    data: str
    package: str
    package_digest: str
    decides: str


def traces(report: Report) -> Iterator[Trace]:
    """Every gate of every package."""
    for device in report.devices:
        for runtime in device.runtimes:
            for candidate in runtime.candidates:
                decides = "yes" if candidate in words.deciding(runtime) else "no"
                for gate in candidate.gates:
                    yield Trace(
                        requirement=requirement_of(report, gate) or "",
                        gate=gate.name,
                        verdict=gate.verdict.value,
                        value="" if gate.value is None else repr(gate.value),
                        bound=f"{'<=' if gate.direction == 'max' else '>='} {gate.bound!r}",
                        unit=gate.unit,
                        data=data_digest(report) or "",
                        package=words.package_name(device, candidate),
                        package_digest=candidate.package_digest,
                        decides=decides,
                    )


def requirement_of(report: Report, gate: GateResult) -> str | None:
    """The product's id of the requirement behind a gate: under its whole name first, then under either part of it."""
    first, _, _ = gate.name.partition(".")
    for name in (gate.name, gate.name.rpartition(".")[2], first):
        if name in report.requirements:
            return report.requirements[name]
    return None


def orphans(report: Report) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(gates without a requirement, requirements without a gate), each once."""
    judged = [
        gate for device in report.devices for one in device.runtimes for item in one.candidates for gate in item.gates
    ]
    traced = {requirement_of(report, gate) for gate in judged}
    bare = dict.fromkeys(gate.name for gate in judged if requirement_of(report, gate) is None)
    return tuple(bare), tuple(one for one in dict.fromkeys(report.requirements.values()) if one not in traced)


def data_digest(report: Report) -> str | None:
    """Digest of what the figures were measured on: what the golden stage made."""
    return next((stage.output for stage in report.stages if stage.name == "golden"), None)


def render_csv(report: Report) -> str:
    """The matrix as CSV, for a requirements tool or a spreadsheet."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([one.name for one in fields(Trace)])
    table.writerows([_inert(cell) for cell in astuple(row)] for row in traces(report))
    return text.getvalue()


def _inert(cell: str) -> str:
    line = clean_line(cell)
    return f"'{line}" if line.startswith(FORMULA) else line
