"""Report -> Markdown, for a pull request or a wiki."""

from validate.markdown_parts import PARTS, verdict
from validate.report import Report


def render_markdown(report: Report) -> str:
    """Verdict, devices, what to do next, packages, what did not pass, and what was not measured."""
    found = ((heading, part(report)) for heading, part in PARTS)
    return "\n\n".join([verdict(report), *(f"## {heading}\n\n{text}" for heading, text in found if text)]) + "\n"
