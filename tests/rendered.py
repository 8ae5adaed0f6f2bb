"""Pages that several tests read: rendering one takes seconds, so the same report is rendered once a session."""

from functools import cache

from validate.render_html import render_html
from validate.report import Report, to_json

_known: dict[str, Report] = {}


def html_of(report: Report) -> str:
    """`render_html`, remembered by the report's data."""
    key = to_json(report)
    _known[key] = report
    return _rendered(key)


@cache
def _rendered(key: str) -> str:
    return render_html(_known[key])
