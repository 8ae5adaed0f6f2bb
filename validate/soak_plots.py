"""Plots of a soak: token rate over time, with temperature and clock below it where there are sensors."""

from itertools import cycle
from typing import TYPE_CHECKING

from validate.plot_series import labelled
from validate.plot_style import DASHES, INCHES, SERIES
from validate.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = (("temperature_c", "\N{DEGREE SIGN}C"), ("clock_mhz", "MHz"))
PANEL_INCHES = 1.1


def draw_soak(axes: "Axes", report: Report) -> bool:
    """A line for each package that was kept busy; a panel for each sensor that answered."""
    from matplotlib.gridspec import GridSpec

    soaked = [(label, item.measurement.soak) for label, item in labelled(report)]
    shown = [(label, soak) for label, soak in soaked if soak is not None and soak.slices]
    if not shown:
        return False
    panels = [
        (field, unit) for field, unit in PANELS if any(getattr(one, field) for _, soak in shown for one in soak.slices)
    ]
    figure = axes.get_figure(root=True)
    every = [axes]
    if figure is not None:
        figure.set_figwidth(2 * INCHES[0])
    if figure is not None and panels:
        grid = GridSpec(1 + len(panels), 1, figure, height_ratios=[2.4, *[1.0] * len(panels)])
        axes.set_subplotspec(grid[0])
        every += [figure.add_subplot(grid[place], sharex=axes) for place in range(1, 1 + len(panels))]
        figure.set_figheight(figure.get_figheight() + PANEL_INCHES * len(panels))
    for (label, soak), colour, dash in zip(shown, cycle(SERIES), cycle(DASHES)):
        minutes = [one.end_s / 60 for one in soak.slices]
        axes.plot(minutes, [one.tokens_per_second for one in soak.slices], color=colour, ls=dash, lw=1.6, label=label)
        for below, (field, _) in zip(every[1:], panels, strict=True):
            values = [getattr(one, field) for one in soak.slices]
            below.plot(minutes, [float("nan") if one is None else one for one in values], color=colour, ls=dash, lw=1.4)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("tokens/s")
    for below, (_, unit) in zip(every[1:], panels, strict=True):
        below.set_ylabel(unit)
    every[-1].set_xlabel("minutes of constant load")
    return True
