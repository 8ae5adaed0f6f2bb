"""Report -> PDF for those who file paper: the page's own content under a style for A4."""

import importlib.util
import re

from targets.errors import DeviceMissing
from validate.render_html import page, style_sheet
from validate.report import Report

VARIABLE = re.compile(r"var\(--([\w-]+)\)")
ICON = re.compile(r'<svg class="icon (pass|fail|incomplete)".*?</svg>', re.DOTALL)
DECLARED = re.compile(r"--([\w-]+): ([^;]+);")


def render_pdf(report: Report) -> bytes:
    """The report as a PDF file, the same bytes for the same report.

    Raises:
        DeviceMissing: WeasyPrint, or a library it needs, is not installed.
    """
    if importlib.util.find_spec("weasyprint") is None:
        raise DeviceMissing(
            "a PDF needs WeasyPrint, which is not installed",
            "pip install '.[pdf]' in a checkout, or print report.html from a browser",
        )
    try:
        import weasyprint
    except OSError as error:
        raise DeviceMissing(
            f"WeasyPrint cannot load a library of the system: {error}",
            "install Pango (Debian, Ubuntu: apt-get install libpango-1.0-0 libpangoft2-1.0-0)",
        ) from error
    document = weasyprint.HTML(string=_on_paper(report), url_fetcher=_refuse)
    content: bytes = document.write_pdf(pdf_identifier=b"tapeout")
    return content


def _on_paper(report: Report) -> str:
    """The page with the colours of its light theme written out: plots are drawn in variables."""
    colours = dict(DECLARED.findall(style_sheet("report.css").partition("@media")[0]))
    text = VARIABLE.sub(lambda found: colours.get(found[1], found[0]), page(report, "paper.css"))
    return ICON.sub(lambda found: found[0].replace("currentColor", colours[found[1]]), text)


def _refuse(url: str) -> dict[str, str]:
    """Nothing is fetched, whatever the text of a report holds."""
    if url.startswith("data:"):
        return {"string": "", "mime_type": "text/plain"}
    raise ValueError(f"the report would fetch {url}")
