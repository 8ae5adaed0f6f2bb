"""Bars of where each session's operators run."""

from typing import TYPE_CHECKING

from validate.plot_series import ascii_label, labelled
from validate.plot_style import INCHES, INK, LONGEST_DEVICE, PAGE, SERIES
from validate.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAR = 0.34  # inches of the figure's height for each bar
FRAME = 1.0  # inches for what is not a bar
READABLE = 0.08  # a share too small for its number to be written into the bar


def draw_placement(axes: "Axes", report: Report) -> bool:
    """A bar for each session, a part for each device."""
    rows = [
        (f"{label}: {ascii_label(one.session, LONGEST_DEVICE)}", one.operators)
        for label, item in labelled(report)
        for one in item.measurement.placements
        if sum(one.operators.values()) > 0
    ]
    if not rows:
        return False
    devices = list(dict.fromkeys(device for _, operators in rows for device in operators))
    left = [0.0] * len(rows)
    for place, device in enumerate(devices):
        shares = [100 * operators.get(device, 0) / sum(operators.values()) for _, operators in rows]
        colour = SERIES[place % len(SERIES)]
        name = ascii_label(device)
        axes.barh(range(len(rows)), shares, left=left, height=0.62, color=colour, label=name, edgecolor=PAGE)
        for row, (share, (_, operators)) in enumerate(zip(shares, rows, strict=True)):
            if share > 100 * READABLE:
                middle = left[row] + share / 2
                axes.text(middle, row, str(operators[device]), ha="center", va="center", color=PAGE, fontsize=8.5)
        left = [before + share for before, share in zip(left, shares, strict=True)]
    axes.set_yticks(range(len(rows)), [label for label, _ in rows], fontsize=8.5, color=INK)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("operators, %")
    figure = axes.get_figure(root=True)
    if figure is not None:
        figure.set_size_inches(2 * INCHES[0], FRAME + BAR * len(rows))
    return True
