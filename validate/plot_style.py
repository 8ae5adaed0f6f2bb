"""How plots look: colours that follow the page's theme, and an axis that says 0.01."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Drawn in these colours, then written as CSS variables: a plot is read on paper, on white and on black.
INK, MUTED, GRID, PAGE = "#010203", "#020304", "#030405", "#040506"
SERIES = ("#110001", "#110002", "#110003", "#110004", "#110005", "#110006")
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "line", PAGE: "card"} | {
    colour: f"series-{place}" for place, colour in enumerate(SERIES, 1)
}
MARKERS = ("o", "s", "^", "D", "v", "P")
# Runtimes with the same weights land on one spot: the first is drawn large, the next inside it.
SIZES = (15, 11.5, 8, 5)
DASHES = ("-", "--", "-.", ":")
LONGEST_LABEL = 32
LONGEST_DEVICE = 16
INCHES = (5.6, 3.5)
# Two columns of the longest label do not fit beside each other; a row is what its text takes.
LEGEND_COLUMNS = 1
LEGEND_ROW = 0.21  # inches

# Any: matplotlib types its settings as a literal of each name.
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "font.size": 10,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}


def logarithmic(axes: "Axes", which: str) -> None:
    """A logarithmic axis that says 0.01 and 1000, not powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log") if which == "y" else axes.set_xscale("log")
    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_locator(LogLocator(10))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
