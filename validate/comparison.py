"""One runtime's candidates side by side: every figure as it is written, with the bound it was judged against."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from targets.status import Verdict
from validate.figures import NOT_MEASURED, figure_beside, gate_bound_sign, interval, percent
from validate.readings import (
    KL_DEPLOYED,
    KL_WEIGHTS,
    SIZE,
    TOP1,
    Figure,
    Reading,
    decode,
    first_token,
    kinds,
    prompt_lengths,
)
from validate.report import Candidate, GateResult, Report

# A gate may have come to the same figure by other arithmetic: 1000 / (1000 / x) is not always x.
SAME = 1e-6

KEY_LENGTH = 512


@dataclass(frozen=True)
class Cell:
    """One figure of one candidate.

    Attributes:
        text: the figure, or "not measured".
        interval: its 95 % confidence interval, or None.
        n: samples it stands on, or None.
        bound: what the gate on it asks for, or None.
        verdict: of that gate, or None.
    """

    text: str
    interval: str | None = None
    n: int | None = None
    bound: str | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Row:
    """One kind of figure over all candidates; `group` is the heading it stands under."""

    group: str
    label: str
    unit: str
    cells: tuple[Cell, ...]


def compare(candidates: Iterable[Candidate]) -> tuple[Row, ...]:
    """The rows of the comparison, one cell a candidate."""
    columns = tuple(candidates)
    return tuple(
        Row(kind.group, kind.label, kind.unit, tuple(_cell(kind, candidate) for candidate in columns))
        for kind in kinds(columns)
    )


@dataclass(frozen=True)
class KeyFigures:
    """The six figures that decide, as they are written: MB, nats/token twice, percent, ms and tokens per second."""

    size: str
    kl_weights: str
    kl_deployed: str
    top1: str
    first_token: str
    speed: str


def key_figures(candidate: Candidate, tokens: int) -> KeyFigures:
    """Those of one candidate, its times at a prompt of `tokens`."""
    kinds_of = (SIZE, KL_WEIGHTS, KL_DEPLOYED, TOP1, first_token(tokens), decode(tokens))
    return KeyFigures(*(_cell(kind, candidate).text for kind in kinds_of))


def key_length(report: Report) -> int:
    """The prompt length that summaries quote: 512 tokens if any package was timed there, else the longest."""
    lengths = prompt_lengths(item for device in report.devices for one in device.runtimes for item in one.candidates)
    return KEY_LENGTH if KEY_LENGTH in lengths or not lengths else lengths[-1]


def _cell(kind: Figure, candidate: Candidate) -> Cell:
    reading = kind.read(candidate)
    gate = _gate(kind, candidate, reading)
    judged = (None, None) if gate is None else (gate_bound_sign(gate), gate.verdict)
    if reading is None:
        return Cell(NOT_MEASURED, None, None, *judged)
    bounds = () if gate is None else (gate.bound,)
    text = percent(reading.value, bounds) if kind.unit == "%" else figure_beside(reading.value, bounds, kind.digits)
    ends = None if reading.low is None else interval(reading.low, reading.high, kind.digits)
    return Cell(text, ends, reading.n, *judged)


def _gate(kind: Figure, candidate: Candidate, reading: Reading | None) -> GateResult | None:
    """The gate that judged this very figure: a gate's name may fit two rows and have judged only one of them."""
    if reading is None:
        return next((gate for gate in candidate.gates if gate.name in kind.gates[:1] and gate.value is None), None)
    named = [gate for gate in candidate.gates if gate.name in kind.gates]
    return next(
        (gate for gate in named if gate.value is not None and math.isclose(gate.value, reading.value, rel_tol=SAME)),
        None,
    )
