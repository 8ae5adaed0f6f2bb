"""A report's plots as SVG for the inside of an HTML page: text stays text, colours follow the page's theme."""

import importlib.util
import io
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

from targets.status import Verdict
from validate.plot_style import (
    DASHES,
    INCHES,
    LONGEST_LABEL,
    MARKERS,
    MUTED,
    PAGE,
    SERIES,
    SIZES,
    STYLE,
    VARIABLES,
    logarithmic,
)
from validate.report import Candidate, Report
from validate.safe_text import clean_line
from validate.search_plots import draw_costs, draw_front

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Plot:
    """One picture.

    Attributes:
        name: fit for an id.
        title: what it shows.
        caption: how to read it.
        svg: an svg element without name spaces.
    """

    name: str
    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Sketch:
    """What a plot is of, and who draws it; `draw` answers whether there was anything to draw."""

    name: str
    title: str
    caption: str
    draw: Callable[["Axes", Report], bool]


def plots_available() -> bool:
    """Whether matplotlib is installed: it comes with the `build` extra, which a device does not have."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_plots(report: Report) -> tuple[Plot, ...]:
    """Every plot that the report has figures for."""
    drawn = ((sketch, _draw(sketch, report)) for sketch in SKETCHES)
    return tuple(Plot(sketch.name, sketch.title, sketch.caption, svg) for sketch, svg in drawn if svg)


def _draw(sketch: Sketch, report: Report) -> str | None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE | {"svg.hashsalt": sketch.name}):
        figure = Figure(figsize=INCHES, layout="constrained")
        if not sketch.draw(figure.add_subplot(), report):
            return None
        if figure.axes[0].get_legend_handles_labels()[1]:
            figure.legend(loc="outside upper left", ncols=2)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _inline(buffer.getvalue(), sketch)


def _inline(svg: str, sketch: Sketch) -> str:
    """The svg element alone: ids of its own, colours of the page, a name for those who cannot see it."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    svg = re.sub(r'\bid="', f'id="{sketch.name}-', svg)
    svg = re.sub(r'url\(#|(?:xlink:)?href="#', lambda found: f"{found[0].removeprefix('xlink:')}{sketch.name}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    view = re.search(r'viewBox="[^"]*"', svg)
    head = f'<svg {view[0] if view else ""} class="plot" role="img" aria-label="{sketch.title}. {sketch.caption}">'
    return re.sub(r"<svg[^>]*>", lambda _: f"{head}<title>{sketch.title}</title>", svg, count=1).strip()


def _label(candidate: Candidate) -> str:
    """Short, so that the axes keep their room; ASCII, as the drawing machine may have no font for another script."""
    return clean_line(f"{candidate.backend} {candidate.scheme}").encode("ascii", "replace").decode()[:LONGEST_LABEL]


def _candidates(report: Report) -> Iterable[tuple[str, Candidate]]:
    """Every candidate with its label; a device is named only where the target has packages for several."""
    found = [(device, item) for device in report.devices for runtime in device.runtimes for item in runtime.candidates]
    several = len({device.name for device, _ in found}) > 1
    for device, item in found:
        yield (f"{clean_line(device.name)[:LONGEST_LABEL]} {_label(item)}" if several else _label(item)), item


def _timed(report: Report) -> list[tuple[str, Candidate]]:
    """What ships and was timed; when nothing ships, every candidate that was timed."""
    timed = [(label, item) for label, item in _candidates(report) if item.measurement.latency]
    return [pair for pair in timed if pair[1].ships] or timed


def _bounds(candidates: Iterable[Candidate], prefix: str) -> dict[str, dict[str, float]]:
    """The bounds that were applied: by gate whose name starts so, then by precision class."""
    bounds: dict[str, dict[str, float]] = {}
    for item in candidates:
        for gate in item.gates:
            if gate.name.startswith(prefix):
                bounds.setdefault(gate.name, {})[item.precision] = gate.bound
    return bounds


def _time_to_first_token(axes: "Axes", report: Report) -> bool:
    timed = _timed(report)
    for (label, item), colour, marker in zip(timed, cycle(SERIES), cycle(MARKERS)):
        times = [(one.prompt_tokens, one.ttft_ms) for one in item.measurement.latency]
        lengths, middle = [tokens for tokens, _ in times], [time.median for _, time in times]
        ends = [[time.median - time.low for _, time in times], [time.high - time.median for _, time in times]]
        axes.errorbar(lengths, middle, ends, color=colour, marker=marker, ms=5, capsize=3, lw=1.6, label=label)
    limits = _bounds((item for _, item in timed), "ttft_ms.")
    named = ((name.removeprefix("ttft_ms."), min(bounds.values())) for name, bounds in limits.items())
    points = sorted((int(tokens), bound) for tokens, bound in named if tokens.isdecimal())
    if points:
        axes.plot(*zip(*points, strict=True), color=MUTED, ls="--", lw=1.2, marker="_", ms=9, label="limit")
    lengths = sorted({one.prompt_tokens for _, item in timed for one in item.measurement.latency})
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(tokens) for tokens in lengths])
    axes.minorticks_off()
    logarithmic(axes, "y")
    axes.set_xlabel("prompt, tokens")
    axes.set_ylabel("time to first token, ms")
    return bool(timed)


def _token_times(axes: "Axes", report: Report) -> bool:
    drawn = False
    for (label, item), colour, dash in zip(_timed(report), cycle(SERIES), cycle(DASHES)):
        intervals = [time for one in item.measurement.latency for time in one.intervals_ms]
        if intervals:
            axes.ecdf(intervals, color=colour, ls=dash, lw=1.8, label=f"{label}, n = {len(intervals)}")
            drawn = True
    axes.set_xlabel("time between two tokens, ms")
    axes.set_ylabel("share of tokens")
    return drawn


def _size_against_divergence(axes: "Axes", report: Report) -> bool:
    shown = _compared(report)
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
    for by_precision in _bounds((item for _, item in shown), "deployed.kl_mean").values():
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


def _prefill_and_decode(axes: "Axes", report: Report) -> bool:
    shown = _compared(report)
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


def _compared(report: Report) -> list[tuple[str, Candidate]]:
    """Every candidate whose fidelity was measured as it ships, in prefill and in decode."""
    measured = [(label, item, item.measurement.fidelity.get("deployed")) for label, item in _candidates(report)]
    return [(label, item) for label, item, found in measured if found is not None and found.kl_decode is not None]


# Marker, word and face of a verdict: shape and word carry it, for those who see no colour.
MARKS: dict[Verdict, tuple[str, str, str | None]] = {
    Verdict.PASS: ("o", "passes", None),
    Verdict.FAIL: ("X", "fails", PAGE),
    Verdict.INCOMPLETE: ("s", "incomplete", PAGE),
}

SKETCHES = (
    Sketch(
        "ttft",
        "Time to first token",
        "Median and 95 % interval by prompt length, both axes logarithmic. Below the dashed limit is good.",
        _time_to_first_token,
    ),
    Sketch(
        "tokens",
        "Time between tokens",
        "Share of tokens that came within a time. Further left is faster; steeper is steadier.",
        _token_times,
    ),
    Sketch(
        "size",
        "Size against fidelity",
        "Every package that was built. Lower is closer to the float model; a gate's line must not be exceeded.",
        _size_against_divergence,
    ),
    Sketch(
        "phases",
        "Fidelity by phase",
        "Divergence in the prefill and in decoding. Far apart, the KV cache is at fault.",
        _prefill_and_decode,
    ),
    Sketch(
        "front",
        "What the search tried",
        "Bytes of the weights against their divergence. Nothing that was tried is smaller and nearer than the line.",
        draw_front,
    ),
    Sketch(
        "sensitivity",
        "What each weight costs",
        "Divergence when that weight alone is quantized: the larger the disc, the more it costs.",
        draw_costs,
    ),
)
