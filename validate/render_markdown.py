"""Report -> Markdown for the summary page of a CI job."""

import re
from collections.abc import Iterable, Sequence

from validate import words
from validate.comparison import key_figures, key_length
from validate.figures import moment
from validate.report import Report
from validate.safe_text import clean_line

# GitHub refuses a summary above 1024 KiB.
MOST_BYTES = 900 * 1024
# A sentence of a vendor's tool may be a whole log.
LONGEST_TEXT = 600
CUT = "\n\nThe summary ends here for its size; the HTML and JSON reports hold everything.\n"
MEANINGFUL = re.compile(r"([\\`*_{}\[\]()#+!|~$@])")
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def render_markdown(report: Report) -> str:
    """Verdict, devices, candidates, what did not pass and what to do next."""
    sections = (_verdict(report), _devices(report), _candidates(report), _gates(report), _next_steps(report))
    return _bounded("\n\n".join(section for section in sections if section) + "\n")


def escape(text: str) -> str:
    """Text that Markdown shows as it stands: one line, no markup, no HTML, no link made of a bare address."""
    line = clean_line(text)
    line = line if len(line) <= LONGEST_TEXT else line[:LONGEST_TEXT] + " ..."
    line = "".join(ENTITIES.get(character, character) for character in line)
    return MEANINGFUL.sub(r"\\\1", line).replace("://", ":&#47;&#47;").replace("www.", "www&#46;")


def _verdict(report: Report) -> str:
    facts = f"Model {escape(str(report.model.get('name', 'unnamed')))}, target {escape(report.target)}"
    return "\n\n".join(
        (
            f"# {report.verdict.value}: {words.VERDICT_WORDS[report.verdict]}",
            f"**{escape(report.headline)}**",
            f"{facts}. {escape(report.product)}",
            f"Measured {escape(moment(report.created))} with Tapeout {escape(report.tapeout)}.",
        )
    )


def _devices(report: Report) -> str:
    rows = [
        (
            words.device_name(device),
            words.runtime_name(runtime.backend),
            runtime.verdict.value,
            words.status_word(runtime),
            words.ships(runtime),
            words.sentence(runtime.reason),
        )
        for device in report.devices
        for runtime in device.runtimes
    ]
    return "## Devices\n\n" + _table(("Device", "Runtime", "Verdict", "Status", "Ships", "Reason"), rows)


def _candidates(report: Report) -> str:
    tokens = key_length(report)
    heads = (
        "Package",
        "MB",
        "KL weights",
        "KL deployed",
        "Top-1 %",
        f"TTFT {tokens} ms",
        "tok/s",
        "Verdict",
        "Decision",
    )
    rows = []
    for device in report.devices:
        for runtime in device.runtimes:
            for item in runtime.candidates:
                key = key_figures(item, tokens)
                figures = (key.size, key.kl_weights, key.kl_deployed, key.top1, key.first_token, key.speed)
                decision = f"{'Ships' if item.ships else 'Does not ship'}. {words.sentence(item.why)}"
                rows.append((words.package_name(device, item), *figures, item.verdict.value, decision))
    if not rows:
        return ""
    note = f"KL in nats per token. Times and decode speed at a prompt of {tokens} tokens; medians."
    return "## Packages\n\n" + _table(heads, rows, numbers=range(1, 7)) + "\n\n" + note


def _gates(report: Report) -> str:
    rows = [
        (
            gate.verdict.value,
            words.package_name(device, item),
            words.gate_sentence(gate),
            gate.reason or "No reason was given.",
        )
        for device in report.devices
        for runtime in device.runtimes
        for item, gate in words.open_gates(runtime)
    ]
    if not rows:
        return ""
    return "## Gates that did not pass\n\n" + _table(("Verdict", "Package", "Gate", "Reason"), rows)


def _next_steps(report: Report) -> str:
    steps = words.next_steps(report.devices)
    if not steps:
        return ""
    lines = [
        f"{place}. {escape(step)} ({escape('; '.join(where))})" for place, (step, where) in enumerate(steps.items(), 1)
    ]
    return "## Next steps\n\n" + "\n".join(lines)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    right = set(numbers)
    rule = ["---:" if place in right else "---" for place in range(len(heads))]
    lines = (heads, rule, *([escape(cell) for cell in row] for row in rows))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bounded(text: str) -> str:
    """At most `MOST_BYTES`, cut between two lines, and saying so."""
    room = MOST_BYTES - len(CUT.encode())
    if len(text.encode()) <= MOST_BYTES:
        return text
    return text.encode()[:room].decode(errors="ignore").rpartition("\n")[0] + CUT
