"""Plot of a change since a baseline: every figure as a ratio with its interval, what is worse first."""

from typing import TYPE_CHECKING

from validate import words
from validate.plot_series import ascii_label
from validate.plot_style import INCHES, MUTED, PAGE, SERIES
from validate.report import Report
from validate.significance import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS = 24
ROW = 0.27  # inches
FRAME = 1.1
# Marker and face of an outcome: shape carries it, for those who see no colour.
MARKS = {Outcome.WORSE: ("X", SERIES[1]), Outcome.BETTER: ("o", SERIES[2])}


def draw_change(axes: "Axes", report: Report) -> bool:
    """A row for each figure that has a ratio to the baseline's."""
    if report.change is None:
        return False
    several = len(report.change.packages) > 1
    rows = [
        (f"{ascii_label(f'{package.device} {package.backend}', 20)}: " if several else "", delta)
        for package in report.change.packages
        for delta in package.deltas
        if delta.kind == "ratio" and delta.change is not None
    ]
    rows.sort(key=lambda row: row[1].outcome is not Outcome.WORSE)
    rows = rows[:MOST_ROWS]
    if not rows:
        return False
    for place, (_, delta) in enumerate(rows):
        marker, colour = MARKS.get(delta.outcome, ("s", MUTED))
        if delta.low is not None and delta.high is not None:
            axes.hlines(place, delta.low, delta.high, color=colour, lw=1.8)
        axes.plot(delta.change or 0.0, place, marker, color=colour, mfc=colour if marker != "s" else PAGE, ms=7)
    for outcome, (marker, colour) in MARKS.items():
        if any(delta.outcome is outcome for _, delta in rows):
            axes.plot([], [], marker, color=colour, label=outcome.value)
    axes.axvline(1, color=MUTED, ls="--", lw=1.2)
    names = [f"{where}{ascii_label(words.gate_words(delta.name), 40)}" for where, delta in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("now / baseline")
    figure = axes.get_figure(root=True)
    if figure is not None:
        figure.set_size_inches(1.6 * INCHES[0], FRAME + ROW * len(rows))
    return True
