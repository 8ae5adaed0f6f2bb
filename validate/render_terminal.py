"""Report -> what the user sees at the end of a build: drawn on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from targets.status import Verdict
from validate import words
from validate.comparison import KeyFigures, key_figures, key_length
from validate.felt_words import felt_sentences
from validate.report import Candidate, DeviceReport, Report, RuntimeReport
from validate.roofline_words import speed_sentences
from validate.safe_text import clean_line
from validate.search_report import diagnosis_sentences
from validate.search_words import search_head, search_lines

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

STYLES = {Verdict.PASS: "green", Verdict.FAIL: "red", Verdict.INCOMPLETE: "yellow"}
# A package that is wrong fails many gates for one reason; the reports have them all.
MOST_GATES = 8


def render_terminal(report: Report, console: "Console", path: Path | None = None) -> None:
    """Print a summary of the report; `path` is where the whole of it is."""
    if console.is_terminal:
        for block in _blocks(report, path):
            console.print(block)
        return
    for line in plain_lines(report, path):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def plain_lines(report: Report, path: Path | None = None) -> Iterator[str]:
    """The summary for a log: each line says what it is about, and none is drawn."""
    yield f"{report.verdict.value}: {words.VERDICT_WORDS[report.verdict]}. {clean_line(report.headline)}"
    tokens = key_length(report)
    for device, runtime in _runtimes(report):
        reason = words.sentence(runtime.reason)
        yield clean_line(f"{_place(device, runtime)}: {runtime.verdict.value}, {_standing(runtime)}. {reason}")
        for item in runtime.candidates:
            yield "  " + clean_line(_figures_line(item, key_figures(item, tokens), tokens))
    yield from _searches(report)
    yield from _felt(report)
    yield from _roofline(report)
    yield from _open_gates(report)
    yield from (f"diagnosis: {sentence}" for sentence in _diagnoses(report))
    for step, places in words.next_steps(report.devices).items():
        yield clean_line(f"next: {step} ({'; '.join(places)})")
    if path is not None:
        yield f"report: {clean_line(str(path))}"


def _searches(report: Report) -> Iterator[str]:
    """What a search tried: one line a recipe, in the order they were tried, and why it ended."""
    for found in report.searches:
        yield clean_line(search_head(found))
        yield from (f"  {clean_line(line)}" for line in search_lines(report, found))


def _felt(report: Report) -> Iterator[str]:
    """What users feel of the packages that decide."""
    yield from _of_deciding(report, lambda item: felt_sentences(item.measurement))


def _roofline(report: Report) -> Iterator[str]:
    """Whether memory decides how fast the packages that decide are, and what a prompt cache saves them."""
    yield from _of_deciding(report, lambda item: speed_sentences(item.measurement))


def _of_deciding(report: Report, say: Callable[[Candidate], Iterable[str]]) -> Iterator[str]:
    return (clean_line(f"{name}: {sentence}") for name, sentence in words.of_deciding(report, say))


def _diagnoses(report: Report) -> Iterator[str]:
    """Which weights are to blame, worst first."""
    for found in report.diagnoses:
        yield from map(clean_line, diagnosis_sentences(found))


def _figures_line(item: Candidate, key: KeyFigures, tokens: int) -> str:
    figures = (
        f"{key.size} MB, KL weights {key.kl_weights}, KL deployed {key.kl_deployed}, top-1 {key.top1} %, "
        f"TTFT {tokens} {key.first_token} ms, {key.speed} tok/s"
    )
    return f"{item.scheme}: {figures}, {item.verdict.value}, {'ships' if item.ships else 'does not ship'}"


def _blocks(report: Report, path: Path | None) -> Iterator["RenderableType"]:
    yield _verdict(report)
    yield _devices(report)
    tokens = key_length(report)
    for device, runtime in _runtimes(report):
        if runtime.candidates:
            yield _candidates(device, runtime, tokens)
    for found in report.searches:
        yield _listed(clean_line(search_head(found).capitalize()), [clean_line(x) for x in search_lines(report, found)])
    parts = {
        "Did not pass": _open_gates(report),
        "What users feel": _felt(report),
        "Roofline and prompt cache": _roofline(report),
        "Weights to blame": _diagnoses(report),
    }
    yield from (_listed(heading, lines) for heading, part in parts.items() if (lines := list(part)))
    steps = words.next_steps(report.devices)
    if steps:
        yield _listed("Next steps", [clean_line(f"{step} ({'; '.join(places)})") for step, places in steps.items()])
    if path is not None:
        yield _styled(("\nReport  ", "bold"), (clean_line(str(path)), ""))


def _verdict(report: Report) -> "RenderableType":
    from rich.panel import Panel

    style = STYLES[report.verdict]
    subject = clean_line(f"{report.model.get('name', 'model')} on {report.target}")
    return Panel(
        _styled((words.VERDICT_WORDS[report.verdict], f"bold {style}"), (f"\n{clean_line(report.headline)}", "")),
        title=_styled((f" {report.verdict.value} ", f"bold reverse {style}")),
        title_align="left",
        subtitle=_styled((subject, "dim")),
        subtitle_align="right",
        border_style=style,
        padding=(1, 2),
    )


def _devices(report: Report) -> "RenderableType":
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for device, runtime in _runtimes(report):
        about = _styled((_standing(runtime), ""), (f"\n{clean_line(words.sentence(runtime.reason))}", "dim"))
        table.add_row(_word(runtime.verdict), _styled((_place(device, runtime), "bold")), about)
    return table


def _candidates(device: DeviceReport, runtime: RuntimeReport, tokens: int) -> "RenderableType":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = _styled((f"\n{_place(device, runtime)}", "bold"))
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("scheme", no_wrap=True)
    for head in ("MB", "KL\nweights", "KL\ndeployed", "top-1\n%", f"TTFT {tokens}\nms", "tok/s"):
        table.add_column(head, justify="right", vertical="bottom")
    table.add_column("verdict", no_wrap=True)
    table.add_column("ships")
    for item in runtime.candidates:
        key = key_figures(item, tokens)
        figures = (key.size, key.kl_weights, key.kl_deployed, key.top1, key.first_token, key.speed)
        ships = _styled(("yes", "bold")) if item.ships else _styled(("no", "dim"))
        table.add_row(_styled((clean_line(item.scheme), "")), *figures, _word(item.verdict), ships)
    losers = [
        clean_line(f"{item.scheme} does not ship. {words.sentence(item.why)}")
        for item in runtime.candidates
        if not item.ships
    ]
    if losers:
        table.caption, table.caption_justify = _styled(("\n".join(losers), "dim")), "left"
    return table


def _listed(title: str, lines: list[str]) -> "RenderableType":
    from rich.table import Table

    table = Table(
        box=None, show_header=False, title=_styled((f"\n{title}", "bold")), title_justify="left", padding=(0, 1, 0, 0)
    )
    for line in lines:
        table.add_row(_styled(("-", "dim")), _styled((line, "")))
    return table


def _open_gates(report: Report) -> Iterator[str]:
    """The gates between the product and a PASS, at most `MOST_GATES` of them."""
    found = [
        clean_line(f"{gate.verdict.value} {words.package_name(device, item)}: {words.gate_sentence(gate)}")
        for device, runtime in _runtimes(report)
        for item, gate in words.open_gates(runtime)
    ]
    yield from found[:MOST_GATES]
    if len(found) > MOST_GATES:
        yield f"and {len(found) - MOST_GATES} more, in the report"


def _runtimes(report: Report) -> Iterator[tuple[DeviceReport, RuntimeReport]]:
    for device in report.devices:
        for runtime in device.runtimes:
            yield device, runtime


def _place(device: DeviceReport, runtime: RuntimeReport) -> str:
    return clean_line(f"{words.device_name(device)}, {words.runtime_name(runtime.backend)}")


def _standing(runtime: RuntimeReport) -> str:
    return clean_line(f"{words.status_word(runtime)}; ships {words.ships(runtime)}")


def _word(verdict: Verdict) -> "Text":
    return _styled((verdict.value, f"bold {STYLES[verdict]}"))


def _styled(*parts: tuple[str, str]) -> "Text":
    """Text in styles. Never markup: a model's name may hold brackets."""
    from rich.text import Text

    return Text.assemble(*parts)
