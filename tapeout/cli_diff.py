"""The command that compares two bundles or reports: diff."""

import dataclasses
from pathlib import Path

import click

from tapeout.output import echo_json

# Of validate.comparable.DIFFERENCES, written here so that --help loads nothing.
ACROSS = ("host", "governor", "threads", "versions", "drift")
SOME = click.Path(exists=True, path_type=Path)


@click.command()
@click.argument("before", type=SOME)
@click.argument("after", type=SOME)
@click.option("--across", multiple=True, type=click.Choice(ACROSS), help="Compare latency over this; may be repeated.")
@click.option("--format", "form", type=click.Choice(["text", "json", "markdown"]), default="text", show_default=True)
@click.pass_context
def diff(context: click.Context, before: Path, after: Path, across: tuple[str, ...], form: str) -> None:
    """Compare bundle or report BEFORE with AFTER; 1 when something is worse beyond AFTER's bounds."""
    from tapeout.baseline import bounds_of, open_report
    from tapeout.values import plain
    from validate.compare_reports import compare_reports, regressions
    from validate.render_change import change_lines, change_markdown

    change = compare_reports(open_report(before), open_report(after), bounds_of(after), across)
    if form == "json":
        echo_json({**plain(dataclasses.asdict(change)), "regressed": change.regressed})
    elif form == "markdown":
        click.echo(change_markdown(change), nl=False)
    else:
        for line in change_lines(change):
            click.echo(line)
    for sentence in regressions(change):
        click.echo(f"worse: {sentence}", err=True)
    context.exit(1 if change.regressed else 0)
