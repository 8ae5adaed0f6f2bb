"""Commands that render: report, schema."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tapeout.cli_build import exit_code, strict_option
from targets.errors import InputRefused, NoSpace, UsageError

if TYPE_CHECKING:
    from validate.report import Report

RENDERINGS = click.Choice(["text", "json", "markdown", "html", "junit", "github", "csv", "pdf"])


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--format", "form", type=RENDERINGS, default="text", show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file [standard output].")
@click.option(
    "--alternatives",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML with [cost] and [[alternatives]] for the comparison [what the target says].",
)
@strict_option
@click.pass_context
def report(context: click.Context, /, bundle: Path, form: str, out: Path | None, **options: Any) -> None:
    """Render the report of BUNDLE (or a report.json) again."""
    from rich.console import Console

    from targets.cost_file import load_offers
    from validate.render_terminal import render_terminal
    from validate.report import read_report

    path = bundle / "report.json" if bundle.is_dir() else bundle
    if not path.is_file():
        raise InputRefused(f"{bundle} holds no report.json", "name the folder of a bundle")
    found = read_report(path)
    if options["alternatives"] is not None:
        offers = load_offers(options["alternatives"])
        found = dataclasses.replace(found, cost=offers.cost or found.cost, alternatives=offers.alternatives)
    if form == "pdf":
        deliver_pdf(found, out)
    elif form == "text":
        if out is not None:
            raise UsageError("text is for a terminal, not for a file", "add --format markdown, or drop --out")
        render_terminal(found, Console(), path.with_suffix(".html"))
    else:
        deliver(renderer(form)(found), out)
    context.exit(exit_code(found.verdict, strict=bool(options["strict"])))


def renderer(form: str) -> "Callable[[Report], str]":
    """What renders a report in that form."""
    from validate.render_github import render_github
    from validate.render_html import render_html
    from validate.render_junit import render_junit
    from validate.render_markdown import render_markdown
    from validate.report import to_json
    from validate.traceability import render_csv

    return {
        "json": to_json,
        "markdown": render_markdown,
        "html": render_html,
        "junit": render_junit,
        "github": render_github,
        "csv": render_csv,
    }[form]


def deliver(content: str, out: Path | None) -> None:
    """To standard output, or to a file.

    Raises:
        NoSpace: the file cannot be written.
    """
    if out is None:
        click.echo(content, nl=False)
        return
    try:
        out.write_text(content, encoding="utf-8")
    except OSError as error:
        raise NoSpace(f"cannot write {out}: {error.strerror}", "choose another --out") from error


def deliver_pdf(report: "Report", out: Path | None) -> None:
    """To a file: a terminal has no use for it.

    Raises:
        UsageError: no file is named.
        DeviceMissing: the `pdf` extra is not installed.
        NoSpace: the file cannot be written.
    """
    from validate.render_pdf import render_pdf

    if out is None:
        raise UsageError("a PDF goes into a file", "add --out FILE")
    content = render_pdf(report)
    try:
        out.write_bytes(content)
    except OSError as error:
        raise NoSpace(f"cannot write {out}: {error.strerror}", "choose another --out") from error


@click.command()
def schema() -> None:
    """Print the JSON Schema of report.json."""
    from validate.report_schema import published_text

    click.echo(published_text(), nl=False)
