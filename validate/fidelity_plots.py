"""Plots of fidelity: against the package's size, and in prefill beside decode."""

from itertools import cycle
from typing import TYPE_CHECKING

from targets.status import Verdict
from validate.plot_series import bounds_of, compared
from validate.plot_style import MUTED, PAGE, SERIES, SIZES, logarithmic
from validate.report import Report
from validate.safe_text import clean_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Marker, word and face of a verdict: shape and word carry it, for those who see no colour.
MARKS: dict[Verdict, tuple[str, str, str | None]] = {
    Verdict.PASS: ("o", "passes", None),
    Verdict.FAIL: ("X", "fails", PAGE),
    Verdict.INCOMPLETE: ("s", "incomplete", PAGE),
}


def draw_size(axes: "Axes", report: Report) -> bool:
    """Package size against divergence, the gates as lines, and the front of those that none beats."""
    shown = compared(report)
    for (label, item), colour, size in zip(shown, cycle(SERIES), cycle(SIZES)):
        marker, word, face = MARKS[item.verdict]
        axes.plot(
            item.package_bytes / 1e6,
            item.measurement.fidelity["deployed"].kl_mean,
            marker,
            color=colour,
            ms=size,
            mew=1.6,
            mfc=face or colour,
            label=f"{label}: {word}",
        )
    front = _front([(item.package_bytes / 1e6, item.measurement.fidelity["deployed"].kl_mean) for _, item in shown])
    axes.step(*zip(*front, strict=True), where="post", color=MUTED, lw=1) if len(front) > 1 else None
    for by_precision in bounds_of((item for _, item in shown), "deployed.kl_mean").values():
        for precision, bound in sorted(by_precision.items()):
            axes.axhline(bound, color=MUTED, ls="--", lw=1.2)
            text = f"{clean_line(precision)} gate, {bound:g}"
            axes.annotate(
                text,
                (1, bound),
                (0, 3),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right",
                color=MUTED,
                fontsize=9,
            )
    if all(item.measurement.fidelity["deployed"].kl_mean > 0 for _, item in shown):
        logarithmic(axes, "y")
    axes.margins(x=0.15, y=0.15)
    axes.set_xlabel("package, MB")
    axes.set_ylabel("mean KL, nats/token")
    return bool(shown)


def draw_phases(axes: "Axes", report: Report) -> bool:
    """Divergence in prefill and in decode, a row for each package."""
    shown = compared(report)
    if not shown:
        return False
    places = range(len(shown))
    found = [item.measurement.fidelity["deployed"] for _, item in shown]
    pairs = [(one.kl_prefill, one.kl_decode) for one in found if one.kl_decode is not None]
    prefill, decode = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    axes.hlines(places, list(map(min, prefill, decode)), list(map(max, prefill, decode)), MUTED, lw=1.4)
    axes.plot(prefill, places, "o", color=SERIES[0], ms=8, label="prefill")
    axes.plot(decode, places, "D", color=SERIES[1], ms=7, mfc=PAGE, mew=1.6, label="decode, with the KV cache")
    axes.set_yticks(list(places), [label for label, _ in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    if all(value > 0 for value in (*prefill, *decode)):
        logarithmic(axes, "x")
    axes.set_xlabel("mean KL, nats/token")
    return True


def _front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those of (size, divergence) that no other is smaller and nearer than, by size."""
    best: list[tuple[float, float]] = []
    for size, divergence in sorted(set(points)):
        if not best or divergence < best[-1][1]:
            best.append((size, divergence))
    return best
