"""The parts of a report in Markdown, each without its heading."""

import re
from collections.abc import Callable, Iterable, Sequence

from validate import words
from validate.comparison import key_figures, key_length
from validate.felt_words import felt_sentences
from validate.figures import moment
from validate.report import Candidate, Report
from validate.roofline_words import speed_sentences
from validate.safe_text import clean_line
from validate.seal_words import BESIDE, CHECKS
from validate.search_report import diagnosis_sentences
from validate.sections import gaps
from validate.standing import HEADS, cells, notes, standings
from validate.timing_words import steadiness_sentences

# A sentence of a vendor's tool may be a whole log.
LONGEST_TEXT = 600
MEANINGFUL = re.compile(r"([\\`*_{}\[\]()#+!|~$@])")
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def escape(text: str) -> str:
    """Text that Markdown shows as it stands: one line, no markup, no HTML, no link made of a bare address."""
    line = clean_line(text)
    line = line if len(line) <= LONGEST_TEXT else line[:LONGEST_TEXT] + " ..."
    line = "".join(ENTITIES.get(character, character) for character in line)
    return MEANINGFUL.sub(r"\\\1", line).replace("://", ":&#47;&#47;").replace("www.", "www&#46;")


def verdict(report: Report) -> str:
    """The decision, what it is about, and when it was measured."""
    facts = f"Model {escape(str(report.model.get('name', 'unnamed')))}, target {escape(report.target)}"
    return "\n\n".join(
        (
            f"# {report.verdict.value}: {words.VERDICT_WORDS[report.verdict]}",
            f"**{escape(report.headline)}**",
            f"{facts}. {escape(report.product)}",
            f"Measured {escape(moment(report.created))} with Tapeout {escape(report.tapeout)}.",
        )
    )


def devices(report: Report) -> str:
    """One row a runtime."""
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
    return table(("Device", "Runtime", "Verdict", "Status", "Ships", "Reason"), rows)


def packages(report: Report) -> str:
    """One row a package; empty when none was built."""
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
    return table(heads, rows, numbers=range(1, 7)) + "\n\n" + note


def comparison(report: Report) -> str:
    """Ours beside what else could answer; empty when there is nothing to compare."""
    rows = [(f"{row.name} ({row.where})", *cells(row)[1:]) for row in standings(report)]
    if not rows:
        return ""
    lines = "\n".join(f"* {escape(note)}" for note in notes(report))
    return table(HEADS, rows, numbers=range(1, 8)) + "\n\n" + lines


def open_gates(report: Report) -> str:
    """One row a gate that stands in the way of a PASS; empty when none does."""
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
    return table(("Verdict", "Package", "Gate", "Reason"), rows)


def next_steps(report: Report) -> str:
    """What to do, as a numbered list; empty when nothing is known."""
    steps = words.next_steps(report.devices)
    if not steps:
        return ""
    lines = [
        f"{place}. {escape(step)} ({escape('; '.join(where))})" for place, (step, where) in enumerate(steps.items(), 1)
    ]
    return "\n".join(lines)


def open_sections(report: Report) -> str:
    """What the report does not show, and what would close each gap."""
    rows = [(section.title, gap.reason, gap.step) for section, gap in gaps(report)]
    return table(("Section", "Not measured", "Next step"), rows) if rows else ""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """A table; `numbers` are the columns that are aligned to the right."""
    right = set(numbers)
    rule = ["---:" if place in right else "---" for place in range(len(heads))]
    lines = (heads, rule, *([escape(cell) for cell in row] for row in rows))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def diagnoses(report: Report) -> str:
    """Which weights are to blame where every package of a runtime fails for its numbers."""
    return "\n".join(f"* {escape(text)}" for found in report.diagnoses for text in diagnosis_sentences(found))


def _of_deciding(report: Report, say: Callable[[Candidate], Iterable[str]]) -> str:
    return "\n".join(f"* {escape(name)}: {escape(sentence)}" for name, sentence in words.of_deciding(report, say))


def felt(report: Report) -> str:
    """The suites, stability, the tokenizer and the KV cache, of the packages that decide."""
    return _of_deciding(report, lambda item: felt_sentences(item.measurement))


def steadiness(report: Report) -> str:
    """How slow the slow ones are, and whether the times can be relied on, of the packages that decide."""
    return _of_deciding(report, steadiness_sentences)


def roofline(report: Report) -> str:
    """Decode speed beside what memory bandwidth allows, and what a prompt cache saves, of the packages that decide."""
    return _of_deciding(report, lambda item: speed_sentences(item.measurement))


def seal(_: Report) -> str:
    """How to tell that the bundle is the one that was built: the report cannot know."""
    commands = "\n".join(f"* `{command}`: {escape(meaning)}" for command, meaning in CHECKS.items())
    files = ", ".join(f"`{name}` ({what.lower()})" for name, (what, _holds) in BESIDE.items())
    return f"{commands}\n\nBeside this report: {files}."


# Heading and part, in the order a reader needs them; a part without text is left out.
PARTS: tuple[tuple[str, Callable[[Report], str]], ...] = (
    ("Devices", devices),
    ("Next steps", next_steps),
    ("Packages", packages),
    ("Comparison", comparison),
    ("Gates that did not pass", open_gates),
    ("Weights to blame", diagnoses),
    ("What users feel", felt),
    ("How steady the times are", steadiness),
    ("Roofline and prompt cache", roofline),
    ("Not measured", open_sections),
    ("Check the bundle", seal),
)
