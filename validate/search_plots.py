"""Plots of a search: what was tried, and what each weight of the model costs."""

from itertools import cycle
from typing import TYPE_CHECKING

from validate.plot_series import ascii_label
from validate.plot_style import MARKERS, PAGE, SERIES, logarithmic
from validate.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELLED_LAYERS = 8  # labels on the axis of layers, at most about so many


def draw_front(axes: "Axes", report: Report) -> bool:
    """Every recipe that was tried: bytes against KL, and the line of those that none beats."""
    shown = False
    for found, colour, marker in zip(report.searches, cycle(SERIES), cycle(MARKERS)):
        tried = [(one.weight_bytes / 1e6, one.kl, one) for one in found.tried if one.kl is not None]
        device = ascii_label(found.device)
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
    """A square for every weight, its colour as strong as the KL of quantizing it alone."""
    from matplotlib.patches import Rectangle

    costs = report.sensitivity
    largest = max((cost.kl for cost in costs), default=0.0)
    if largest <= 0:
        return False
    projections = list(dict.fromkeys(cost.projection for cost in costs))
    for cost in costs:
        share = max(cost.kl, 0.0) / largest
        corner = (cost.layer - 0.5, projections.index(cost.projection) - 0.5)
        # Perceived, not physical: half the cost must not look like none.
        axes.add_patch(Rectangle(corner, 1, 1, facecolor=SERIES[0], alpha=share**0.5, linewidth=0))
    axes.plot([], [], "s", color=SERIES[0], label=f"strongest: {largest:.3g} nats/token")
    axes.grid(visible=False)
    names = [ascii_label(name.rpartition(".")[2]) for name in projections]
    axes.set_yticks(range(len(projections)), names)
    axes.set_ylim(len(projections) - 0.5, -0.5)
    layers = sorted({cost.layer for cost in costs})
    axes.set_xlim(layers[0] - 0.5, layers[-1] + 0.5)
    axes.set_xticks(layers[:: max(1, len(layers) // LABELLED_LAYERS)])
    axes.set_xlabel("layer")
    return True
