"""What changed between two reports, as text for a terminal and as Markdown."""

from collections.abc import Iterator

from validate import words
from validate.change import Change, Delta, PackageChange
from validate.figures import NOT_MEASURED, figure, figure_beside, interval
from validate.safe_text import clean_line


def change_lines(change: Change) -> Iterator[str]:
    """One line a figure, below one a package."""
    yield clean_line(title(change))
    for kind, names in (("added", change.devices_added), ("removed", change.devices_removed)):
        if names:
            yield clean_line(f"devices {kind}: {', '.join(names)}")
    for package in change.packages:
        yield clean_line(heading(package))
        for delta in package.deltas:
            yield "  " + clean_line(f"{words.gate_words(delta.name)}: {values(delta)}, {outcome(delta)}")
        for kind, gates in (("added", package.gates_added), ("removed", package.gates_removed)):
            if gates:
                yield "  " + clean_line(f"gates {kind}: {', '.join(gates)}")


def change_markdown(change: Change) -> str:
    """A table a package."""
    from validate.markdown_parts import escape

    lines = [f"# Change\n\n{escape(title(change))}"]
    for package in change.packages:
        lines.append(f"## {escape(heading(package))}")
        if package.deltas:
            rows = [
                f"| {escape(words.gate_words(delta.name))} | {escape(values(delta))} | {escape(outcome(delta))} |"
                for delta in package.deltas
            ]
            lines.append("\n".join(["| Figure | Before, now | Outcome |", "|---|---|---|", *rows]))
        for kind, gates in (("added", package.gates_added), ("removed", package.gates_removed)):
            if gates:
                lines.append(escape(f"Gates {kind}: {', '.join(gates)}."))
    return "\n\n".join(lines) + "\n"


def title(change: Change) -> str:
    """What is compared with what."""
    base = change.baseline
    return (
        f"{base['model']} on {base['target']}, {base['created']} (Tapeout {base['tapeout']}, {base['verdict']}):"
        f" {'worse beyond its bounds' if change.regressed else 'nothing is worse beyond its bounds'}"
    )


def heading(package: PackageChange) -> str:
    """One package: what it is, and whether it is still the same."""
    schemes = package.scheme_before or "none"
    if package.scheme_after != package.scheme_before:
        schemes += f" -> {package.scheme_after or 'none'}"
    verdicts = " -> ".join(str(verdict or "absent") for verdict in (package.verdict_before, package.verdict_after))
    place = f"{package.device}, {words.runtime_name(package.backend)}"
    return f"{place}: {schemes}, {verdicts}; weights {package.weights}, package {package.package}"


def values(delta: Delta) -> str:
    """Both figures, and the ratio or the difference with its interval."""
    before, after = figure(delta.before), figure_beside(delta.after, [delta.before or 0.0])
    unit = f" {delta.unit}" if delta.unit and after != NOT_MEASURED else ""
    text = f"{before} -> {after}{unit}"
    if delta.change is None or delta.change == 0:
        return text
    sign = "x" if delta.kind == "ratio" else "+" if delta.change > 0 else ""
    ends = f" [{interval(delta.low, delta.high)}]" if delta.low is not None else ""
    return f"{text} ({sign}{figure(delta.change)}{ends})"


def outcome(delta: Delta) -> str:
    """What it came to, and what the target says of it."""
    text = f"{delta.outcome.value}{f': {delta.why}' if delta.why else ''}"
    return text if delta.verdict is None else f"{text}; {delta.verdict.value} (at most {delta.bound:g})"
