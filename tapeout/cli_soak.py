"""The command that keeps a bundle's packages busy: soak."""

from pathlib import Path

import click

from tapeout.cli_build import exit_code, strict_option
from targets.errors import UsageError

LEAST_MINUTES = 0.01


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--minutes", default=30.0, show_default=True, help="Constant load on each package.")
@click.option("--device", "devices", multiple=True, help="A device of the target; may be repeated [all that are here].")
@click.option("--prompt", "prompt_tokens", default=128, show_default=True, help="Tokens of every request's prompt.")
@click.option("--tokens", "new_tokens", default=32, show_default=True, help="Tokens generated after the first.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the new reports [BUNDLE-validation].")
@strict_option
@click.pass_context
def soak(
    context: click.Context, /, bundle: Path, minutes: float, devices: tuple[str, ...], out: Path | None, **options: int
) -> None:
    """Keep the packages of BUNDLE busy on this machine: token rate, memory, heat and energy over time."""
    from rich.console import Console

    from tapeout.soaking import soak_bundle
    from validate.render_terminal import render_terminal
    from validate.soak_figures import SoakPlan

    if not minutes >= LEAST_MINUTES or min(options["prompt_tokens"], options["new_tokens"]) < 1:
        raise UsageError("a soak needs minutes, a prompt and tokens", "leave the options out, or give them above zero")
    console = Console(stderr=True)
    folder = out or bundle.resolve().parent / f"{bundle.resolve().name}-validation"
    plan = SoakPlan(minutes, options["prompt_tokens"], options["new_tokens"])
    report = soak_bundle(bundle, folder, plan, devices, lambda text: console.print(text, markup=False, highlight=False))
    render_terminal(report, console, folder / "report.html")
    context.exit(exit_code(report.verdict, strict=bool(options["strict"])))
