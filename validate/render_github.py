"""Report -> the summary page of a GitHub Actions job: the table of devices first, the rest folded, never too long."""

from validate.markdown_parts import PARTS, verdict
from validate.report import Report

# GitHub refuses a summary above 1024 KiB.
MOST_BYTES = 900 * 1024
CUT = "\n\n**Cut here for the size that GitHub allows.** The HTML and JSON reports hold everything.\n"
CLOSE = "\n\n</details>"


def render_github(report: Report, most_bytes: int = MOST_BYTES) -> str:
    """At most `most_bytes`; where something had to be left out, the last line says so."""
    text = verdict(report) + "\n"
    for place, (heading, part) in enumerate(PARTS):
        body = part(report)
        if not body:
            continue
        start, end = ("", "") if place == 0 else (f"<details><summary>{heading}</summary>\n\n", CLOSE)
        if _size(text, start, body, end, CUT) > most_bytes:
            room = most_bytes - _size(text, start, end, CUT)
            return f"{text}\n{start}{_whole_lines(body, room)}{end}{CUT}" if room > 0 else CUT.lstrip()
        text += f"\n{start}{body}{end}\n"
    return text


def _size(*parts: str) -> int:
    return sum(len(part.encode()) for part in parts) + 2


def _whole_lines(body: str, room: int) -> str:
    """As many of the first lines as fit."""
    return body.encode()[:room].decode(errors="ignore").rpartition("\n")[0]
