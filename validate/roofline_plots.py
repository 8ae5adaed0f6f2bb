"""The plot of a roofline: decode speed by context, under what memory bandwidth allows."""

from itertools import cycle
from typing import TYPE_CHECKING

from validate.plot_series import timed
from validate.plot_style import MARKERS, SERIES
from validate.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_roofline(axes: "Axes", report: Report) -> bool:
    """For each package what was measured, and in the same colour its roof."""
    drawn = False
    for (label, item), colour, marker in zip(timed(report), cycle(SERIES), cycle(MARKERS)):
        roofline = item.measurement.roofline
        if roofline is None or not roofline.points:
            continue
        context = [point.context_tokens for point in roofline.points]
        speeds = [point.tokens_per_second for point in roofline.points]
        axes.plot(context, speeds, color=colour, marker=marker, ms=5, lw=1.6, label=label)
        axes.plot(context, [point.roof for point in roofline.points], color=colour, ls="--", lw=1.4)
        drawn = True
    axes.set_ylim(bottom=0)
    axes.set_xlabel("context, tokens")
    axes.set_ylabel("tokens/s")
    return drawn
