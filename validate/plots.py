"""A report's plots as SVG for the inside of an HTML page: text stays text, colours follow the page's theme."""

import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from validate.change_plots import draw_change
from validate.fidelity_plots import draw_phases, draw_size
from validate.latency_plots import draw_first_token, draw_first_token_ecdf, draw_token_times
from validate.placement_plots import draw_placement
from validate.plot_style import INCHES, LEGEND_COLUMNS, LEGEND_ROW, STYLE, VARIABLES
from validate.report import Report
from validate.roofline_plots import draw_roofline
from validate.search_plots import draw_costs, draw_front
from validate.soak_plots import draw_soak
from validate.svg_inline import inline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Plot:
    """One picture.

    Attributes:
        name: fit for an id.
        title: what it shows.
        caption: how to read it.
        section: of the report it belongs to.
        svg: an svg element without name spaces, or None when there was nothing to draw.
        missing: one sentence that says what would have to be measured.
    """

    name: str
    title: str
    caption: str
    section: str
    svg: str | None
    missing: str


@dataclass(frozen=True)
class Sketch:
    """What a plot is of, and who draws it; `draw` answers whether there was anything to draw."""

    name: str
    title: str
    caption: str
    section: str
    missing: str
    draw: Callable[["Axes", Report], bool]


def plots_available() -> bool:
    """Whether matplotlib is installed: it comes with the `build` extra, which a device does not have."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_plots(report: Report) -> tuple[Plot, ...]:
    """Every plot; one that the report has no figures for says what would have to be measured."""
    return tuple(
        Plot(one.name, one.title, one.caption, one.section, _draw(one, report), one.missing) for one in SKETCHES
    )


def _draw(sketch: Sketch, report: Report) -> str | None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE | {"svg.hashsalt": sketch.name}):
        figure = Figure(figsize=INCHES, layout="constrained")
        axes = figure.add_subplot()
        if not sketch.draw(axes, report):
            return None
        labels = axes.get_legend_handles_labels()[1]
        # What stands beside and above the axes is added to the figure: it must not take the axes' room.
        rows = -(-len(labels) // LEGEND_COLUMNS)
        figure.set_figheight(figure.get_figheight() + LEGEND_ROW * rows)
        if labels:
            figure.legend(loc="outside upper left", ncols=LEGEND_COLUMNS)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return inline_svg(buffer.getvalue(), sketch.name, sketch.title, sketch.caption, VARIABLES)


TIMED = "No package was timed."
SKETCHES = (
    Sketch(
        "ttft",
        "Time to first token",
        "Median and 95 % interval by prompt length, both axes logarithmic. Below the dashed limit is good.",
        "latency",
        TIMED,
        draw_first_token,
    ),
    Sketch(
        "first",
        "Time to first token, how steady",
        "Share of requests whose first token came within a time, at the prompt length that summaries quote.",
        "latency",
        TIMED,
        draw_first_token_ecdf,
    ),
    Sketch(
        "tokens",
        "Time between tokens",
        "Share of tokens that came within a time. Further left is faster; steeper is steadier.",
        "latency",
        TIMED,
        draw_token_times,
    ),
    Sketch(
        "roofline",
        "Roofline",
        "Decode speed by context, and above it the dashed line of what this machine's memory bandwidth allows.",
        "latency",
        "No package was timed on a processor whose memory bandwidth was measured, so there is no roof to draw.",
        draw_roofline,
    ),
    Sketch(
        "size",
        "Size against fidelity",
        "Every package that was built; nothing is smaller and nearer to the float model than the line.",
        "accuracy",
        "No package was compared with the float model as it ships.",
        draw_size,
    ),
    Sketch(
        "phases",
        "Fidelity by phase",
        "Divergence in the prefill and in decoding. Far apart, the KV cache is at fault.",
        "accuracy",
        "No package was compared with the float model as it ships.",
        draw_phases,
    ),
    Sketch(
        "placement",
        "Where the work runs",
        "Share of operators that each device was given, session by session.",
        "conversion-placement",
        "No runtime said where its operators run.",
        draw_placement,
    ),
    Sketch(
        "front",
        "What the search tried",
        "Bytes of the weights against their divergence. Nothing that was tried is smaller and nearer than the line.",
        "conversion",
        "No search was asked for.",
        draw_front,
    ),
    Sketch(
        "sensitivity",
        "What each weight costs",
        "Divergence when that weight alone is quantized: the stronger the colour, the more it costs.",
        "conversion",
        "No recipe asked what each weight costs.",
        draw_costs,
    ),
    Sketch(
        "soak",
        "Constant load",
        "Token rate over time; below it what the sensors said. A falling line is heat, or a leak.",
        "soak",
        "No package ran under constant load.",
        draw_soak,
    ),
    Sketch(
        "change",
        "Since the baseline",
        "Each figure over the baseline's, with its 95 % interval. At 1 nothing changed.",
        "change",
        "No figure of the baseline has a ratio to this one's.",
        draw_change,
    ),
)
