"""Commands for the store: stats, verify, gc."""

import click

from tapeout.output import echo_json

DAY_S = 86400


@click.group()
def store() -> None:
    """Look after the content-addressed store."""


@store.command()
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def stats(context: click.Context, form: str) -> None:
    """Count what is stored."""
    from dataclasses import asdict

    from tapeout.store import Store
    from tapeout.store_care import stats as count

    found = count(Store(context.obj.store_path))
    if form == "json":
        echo_json(asdict(found))
        return
    click.echo(
        f"{found.entries} entries, {found.objects} objects, {found.bytes / 1e6:.0f} MB in {context.obj.store_path}"
    )
    for stage, entries in sorted(found.by_stage.items()):
        click.echo(f"    {stage:<10} {entries:>4} entries {found.stage_bytes.get(stage, 0) / 1e6:>8.0f} MB")
    click.echo(f"    in work: {found.tmp}, in quarantine: {found.quarantine}")


@store.command()
@click.pass_context
def verify(context: click.Context) -> None:
    """Hash everything again; what is damaged goes to quarantine."""
    from tapeout.store import Store
    from tapeout.store_care import verify as check
    from targets.errors import IntegrityError

    found = check(Store(context.obj.store_path))
    click.echo(f"{found.records} entries and {found.objects} objects checked")
    if not found.clean:
        for line in found.damage:
            click.echo(f"    {line}", err=True)
        raise IntegrityError(
            f"{len(found.damage)} entries of the store were damaged and are in quarantine",
            "build again: they will be made afresh",
        )


@store.command()
@click.option("--older-than", "days", default=30.0, show_default=True, help="Days since last use.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.pass_context
def gc(context: click.Context, days: float, dry_run: bool) -> None:
    """Remove what has not been used for a while."""
    from tapeout.store import Store
    from tapeout.store_care import gc as collect

    found = collect(Store(context.obj.store_path), (), days * DAY_S, dry_run=dry_run)
    if found.busy:
        click.echo("a build is running: nothing was removed, try again when it has ended", err=True)
        return
    verb = "would go" if dry_run else "removed"
    click.echo(
        f"{found.records} entries, {found.objects} objects, {found.bytes / 1e6:.0f} MB {verb};"
        f" {found.tmp} left-over folders"
    )
