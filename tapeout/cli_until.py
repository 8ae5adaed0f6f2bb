"""What `build` says before it starts, and `build --until compile`: packages without figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tapeout.output import echo_json
from targets.errors import UsageError

if TYPE_CHECKING:
    from tapeout.jobs import Request

# Options that mean something only where figures are judged.
JUDGING = ("suite", "questions", "windows", "sign_key", "check_reproducible", "baseline")
INCOMPLETE_UNDER_STRICT = 10


def refuse_judging(context: click.Context) -> None:
    """Refuse options that ask for a bundle or a verdict when nothing is measured.

    Raises:
        UsageError: names the first of them.
    """
    for name in JUDGING:
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise UsageError(
                f"--{name.replace('_', '-')} needs figures, and --until compile measures nothing", "leave out one"
            )


def run_until_compiled(context: click.Context, request: "Request", options: Mapping[str, Any]) -> None:
    """Build the packages, say what was not measured, and end with its exit code."""
    from rich.console import Console

    from tapeout.build_only import build_only
    from tapeout.store import Store
    from tapeout.watch import watch

    console = Console(stderr=True)
    store = Store(context.obj.store_path, warn=lambda text: console.print(f"[yellow]warning:[/] {text}"))
    with watch(console) as watcher:
        built = build_only(request, store, options["out"], watcher)
    if options["form"] == "json":
        echo_json(built.as_dictionary())
    else:
        for package in built.packages:
            console.print(f"{built.folder / package.folder}  {package.package_bytes / 1e6:.0f} MB", highlight=False)
        console.print(f"{built.verdict}: not measured: {', '.join(built.not_measured)}", highlight=False)
    for error in built.errors:
        console.print(f"error: {error.what}", markup=False, highlight=False)
    context.exit(built.errors[0].exit_code if built.errors else INCOMPLETE_UNDER_STRICT if options["strict"] else 0)


def say_forecast(request: "Request", store: Path, until: str | None) -> None:
    """Say what the build will need, where that can be seen; refuses what cannot fit."""
    from tapeout.forecast import check_fits

    found = check_fits(request, store, until)
    if found is not None:
        click.echo(f"need  {found}", err=True)
