"""Plots of a search: what was tried, and what each weight of the model costs."""

from itertools import cycle
from typing import TYPE_CHECKING

from validate.plot_style import MARKERS, PAGE, SERIES, logarithmic
from validate.report import Report
from validate.safe_text import clean_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LARGEST_DISC = 130.0  # square points
LABELLED_LAYERS = 8  # labels on the axis of layers, at most about so many


def draw_front(axes: "Axes", report: Report) -> bool:
    """Every recipe that was tried: bytes against KL, and the line of those that none beats."""
    shown = False
    for found, colour, marker in zip(report.searches, cycle(SERIES), cycle(MARKERS)):
        tried = [(one.weight_bytes / 1e6, one.kl, one) for one in found.tried if one.kl is not None]
        device = clean_line(found.device)
        for passed, word in ((True, "passes"), (False, "fails")):
            points = [(size, kl) for size, kl, one in tried if one.passed is passed]
            if points:
                face = colour if passed else PAGE
                axes.plot(
                    *zip(*points, strict=True), marker, color=colour, mfc=face, mew=1.6, ms=8, label=f"{device}: {word}"
                )
        front = sorted((size, kl) for size, kl, one in tried if one.on_front)
        if front:
            axes.plot(*zip(*front, strict=True), color=colour, lw=1.2)
        axes.axhline(found.goal_kl, color=colour, ls="--", lw=1)
        shown = shown or bool(tried)
    if all(one.kl is None or one.kl > 0 for found in report.searches for one in found.tried):
        logarithmic(axes, "y")
    axes.margins(x=0.15, y=0.15)
    axes.set_xlabel("weights, MB")
    axes.set_ylabel("mean KL, nats/token")
    return shown


def draw_costs(axes: "Axes", report: Report) -> bool:
    """A disc for every weight, its area the KL of quantizing it alone."""
    costs = report.sensitivity
    largest = max((cost.kl for cost in costs), default=0.0)
    if largest <= 0:
        return False
    projections = list(dict.fromkeys(cost.projection for cost in costs))
    axes.scatter(
        [cost.layer for cost in costs],
        [projections.index(cost.projection) for cost in costs],
        [LARGEST_DISC * max(cost.kl, 0.0) / largest for cost in costs],
        color=SERIES[0],
        label=f"largest: {largest:.3g} nats/token",
    )
    names = [clean_line(name).rpartition(".")[2] for name in projections]
    axes.set_yticks(range(len(projections)), names)
    axes.set_ylim(len(projections) - 0.5, -0.5)
    layers = sorted({cost.layer for cost in costs})
    axes.set_xticks(layers[:: max(1, len(layers) // LABELLED_LAYERS)])
    axes.set_xlabel("layer")
    return True
