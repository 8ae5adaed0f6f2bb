"""Plots of times: to the first token by prompt length, and the distributions of both times with their bounds."""

from itertools import cycle
from typing import TYPE_CHECKING

from validate.comparison import key_length
from validate.plot_series import bounds_of, timed
from validate.plot_style import DASHES, MARKERS, MUTED, SERIES, logarithmic
from validate.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_first_token(axes: "Axes", report: Report) -> bool:
    """Median and interval of the time to first token by prompt length, with the limits that were applied."""
    shown = timed(report)
    for (label, item), colour, marker in zip(shown, cycle(SERIES), cycle(MARKERS)):
        times = [(one.prompt_tokens, one.ttft_ms) for one in item.measurement.latency]
        lengths, middle = [tokens for tokens, _ in times], [time.median for _, time in times]
        ends = [[time.median - time.low for _, time in times], [time.high - time.median for _, time in times]]
        axes.errorbar(lengths, middle, ends, color=colour, marker=marker, ms=5, capsize=3, lw=1.6, label=label)
    limits = bounds_of((item for _, item in shown), "ttft_ms.")
    named = ((name.removeprefix("ttft_ms."), min(bounds.values())) for name, bounds in limits.items())
    points = sorted((int(tokens), bound) for tokens, bound in named if tokens.isdecimal())
    if points:
        axes.plot(*zip(*points, strict=True), color=MUTED, ls="--", lw=1.2, marker="_", ms=9, label="limit")
    lengths = sorted({one.prompt_tokens for _, item in shown for one in item.measurement.latency})
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(tokens) for tokens in lengths])
    axes.minorticks_off()
    logarithmic(axes, "y")
    axes.set_xlabel("prompt, tokens")
    axes.set_ylabel("time to first token, ms")
    return bool(shown)


def draw_first_token_ecdf(axes: "Axes", report: Report) -> bool:
    """Distribution of the time to first token at the prompt length that summaries quote."""
    length = key_length(report)
    shown = timed(report)
    drawn = False
    for (label, item), colour, dash in zip(shown, cycle(SERIES), cycle(DASHES)):
        samples = [
            time for one in item.measurement.latency if one.prompt_tokens == length for time in one.ttft_ms.samples
        ]
        if samples:
            axes.ecdf(samples, color=colour, ls=dash, lw=1.8, label=f"{label}, n = {len(samples)}")
            drawn = True
    _draw_limits(axes, bounds_of((item for _, item in shown), f"ttft_ms.{length}"))
    axes.set_xlabel(f"time to first token, ms, prompt of {length} tokens")
    axes.set_ylabel("share of requests")
    return drawn


def _draw_limits(axes: "Axes", bounds: dict[str, dict[str, float]], *, rates: bool = False) -> None:
    """A line at each bound; `rates`: they are tokens per second, and the axis is milliseconds."""
    for bound in sorted({bound for by_precision in bounds.values() for bound in by_precision.values() if bound > 0}):
        axes.axvline(1000 / bound if rates else bound, color=MUTED, ls="--", lw=1.2, label=_limit(bound, rates=rates))


def _limit(bound: float, *, rates: bool) -> str:
    return f"limit, {1000 / bound:g} ms ({bound:g} tokens/s)" if rates else f"limit, {bound:g} ms"


def draw_token_times(axes: "Axes", report: Report) -> bool:
    """Distribution of the times between two tokens, all prompt lengths pooled."""
    shown = timed(report)
    drawn = False
    for (label, item), colour, dash in zip(shown, cycle(SERIES), cycle(DASHES)):
        intervals = [time for one in item.measurement.latency for time in one.intervals_ms]
        if intervals:
            axes.ecdf(intervals, color=colour, ls=dash, lw=1.8, label=f"{label}, n = {len(intervals)}")
            drawn = True
    _draw_limits(axes, bounds_of((item for _, item in shown), "decode_tokens_per_second"), rates=True)
    axes.set_xlabel("time between two tokens, ms")
    axes.set_ylabel("share of tokens")
    return drawn
