"""Report -> one HTML file that needs no network and no other file, and reads whole without its script."""

import base64
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from targets.status import Status, Verdict
from validate import figures, host_words, render_change, seal_words, search_words, timing_words, words
from validate.comparison import compare, key_figures, key_length
from validate.felt_words import compared, guided_sentence
from validate.measurement import Answer
from validate.plots import draw_plots, plots_available
from validate.report import Report
from validate.safe_text import clean
from validate.search_report import diagnosis_sentences
from validate.sections import SECTIONS, candidates, gaps
from validate.standing import HEADS, UNKNOWNS, cells, notes, standings
from validate.traceability import data_digest, orphans, requirement_of

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATE = "report.html.jinja"
# Characters that could end the script element or start another, as JSON escapes them.
JSON_IN_HTML = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def render_html(report: Report) -> str:
    """The report as a person reads it who decides whether the product ships."""
    return page(report, "report.css")


def page(report: Report, style_name: str) -> str:
    """The page under one of our style sheets."""
    from markupsafe import Markup

    environment = _environment()
    plots = draw_plots(report) if plots_available() else None
    style, script = environment.get_template(style_name).render(), environment.get_template("report.js").render()
    return environment.get_template(TEMPLATE).render(
        report=report,
        plots=plots,
        data=embedded_json(report),
        style=Markup(style),  # noqa: S704 - both are files of ours, without a value of the report in them
        script=Markup(script),  # noqa: S704
        policy=content_policy(style, script),
    )


def style_sheet(name: str) -> str:
    """One of our style sheets as a page gets it."""
    return _environment().get_template(name).render()


def content_policy(style: str, script: str) -> str:
    """What the page may load and run: its one style element, its one script, and the empty icon."""
    return f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; img-src data:"


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def embedded_json(report: Report) -> str:
    """The report's data for the inside of a script element: ASCII, without a character that HTML would see."""
    document = json.dumps(dataclasses.asdict(report), sort_keys=True, allow_nan=False, ensure_ascii=True)
    return document.translate(JSON_IN_HTML)


def facts(
    values: Mapping[str, Any], missing: str = figures.NOT_MEASURED, *, named: bool = True
) -> list[tuple[str, str]]:
    """An open dictionary as (label, text) pairs in the order of its keys, nested ones flattened.

    Args:
        values: what to write.
        missing: stands for None.
        named: keys are names of ours, to be written as words; else they are somebody's settings and stay as they are.
    """
    pairs: list[tuple[str, str]] = []
    for name, value in sorted(values.items()):
        label = words.label(str(name)) if named else str(name)
        if isinstance(value, Mapping) and value:
            pairs += [
                (f"{label}, {inner.lower() if named else inner}", text)
                for inner, text in facts(value, missing, named=named)
            ]
        elif str(name).endswith("_bytes") and isinstance(value, int):
            pairs.append((label, f"{figures.megabytes(value)} MB"))
        else:
            pairs.append((label, _written(value, missing)))
    return pairs


def side_by_side(answer: Answer) -> tuple[str, str, str]:
    """What both answers start with, and how each goes on from the word in which they part."""
    reference, text = clean(answer.reference), clean(answer.text)
    if reference == text:
        return reference, "", ""
    parted = next((i for i, (one, other) in enumerate(zip(reference, text, strict=False)) if one != other), None)
    start = 1 + reference.rfind(" ", 0, min(len(reference), len(text)) if parted is None else parted)
    return reference[:start], reference[start:], text[start:]


def _written(value: Any, missing: str) -> str:
    if value is None:
        return missing
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return figures.count(value)
    if isinstance(value, float):
        return figures.figure(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_written(one, missing) for one in value) or "none"
    return str(value) or "none"


def _shown(value: Any) -> Any:
    """What an expression of the template shows: text cleaned, and no blank where a figure is missing."""
    from markupsafe import Markup

    if value is None:
        return figures.NOT_MEASURED
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("validate"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "HEADS": HEADS,
        "SECTIONS": SECTIONS,
        "UNKNOWNS": UNKNOWNS,
        "Verdict": Verdict,
        "Status": Status,
        "candidates": candidates,
        "cells": cells,
        "change_heading": render_change.heading,
        "change_outcome": render_change.outcome,
        "change_title": render_change.title,
        "change_values": render_change.values,
        "compare": compare,
        "data_digest": data_digest,
        "diagnosis_sentences": diagnosis_sentences,
        "facts": facts,
        "compared": compared,
        "guided_sentence": guided_sentence,
        "figures": figures,
        "gaps": gaps,
        "host_words": host_words,
        "key_figures": key_figures,
        "key_length": key_length,
        "notes": notes,
        "orphans": orphans,
        "requirement_of": requirement_of,
        "seal_words": seal_words,
        "search_words": search_words,
        "timing": timing_words,
        "side_by_side": side_by_side,
        "standings": standings,
        "words": words,
    }
    return environment
