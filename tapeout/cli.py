"""The command line: human text on standard error, data on standard output, documented exit codes."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from targets.errors import TapeoutError

STORE_VARIABLE = "TAPEOUT_STORE"
ARTIFACTS = Path("artifacts")
KEPT = "run the same command again: finished stages are kept"


class Terminated(BaseException):
    """SIGTERM arrived. Not a KeyboardInterrupt, which click answers by itself."""


class State:
    """What every command knows: where the store is, and whether tracebacks are wanted."""

    def __init__(self, store: Path, debug: bool) -> None:
        self.store_path = store
        self.debug = debug


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--store", type=click.Path(path_type=Path), help=f"The store's folder [${STORE_VARIABLE} or artifacts/.store]."
)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(package_name="tapeout", prog_name="tapeout")
@click.pass_context
def main(context: click.Context, store: Path | None, debug: bool) -> None:
    """Turn a small language model into device-ready packages and prove that they work."""
    path = store or Path(os.environ.get(STORE_VARIABLE) or ARTIFACTS / ".store")
    context.obj = State(path, debug)


def add_commands() -> None:
    """Attach the commands; their modules import little, so that `--help` stays quick."""
    from tapeout import (
        cli_bench,
        cli_build,
        cli_diff,
        cli_inspect,
        cli_report,
        cli_seal,
        cli_search,
        cli_soak,
        cli_store,
    )

    for command in (
        cli_build.build,
        cli_build.plan,
        cli_search.search,
        cli_build.validate,
        cli_soak.soak,
        cli_bench.bench,
        cli_report.report,
        cli_report.schema,
        cli_seal.sign,
        cli_seal.verify,
        cli_diff.diff,
        cli_inspect.targets,
        cli_inspect.doctor,
        cli_store.store,
    ):
        main.add_command(command)


add_commands()


def run() -> None:
    """Run the command line and end the process with the documented exit code."""
    signal.signal(signal.SIGTERM, terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # ignored in a background job: leave it so
        signal.signal(signal.SIGINT, interrupt)
    code = 0
    try:
        code = main.main(standalone_mode=False)
    except BrokenPipeError:
        # Whoever read standard output has gone; what was done is done.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except click.exceptions.Abort:
        stop("interrupted", KEPT, 130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, Terminated, Exception) as error:  # a traceback reaches a user only with --debug
        if "--debug" in sys.argv:
            raise
        stop(*explain(error))
    sys.exit(code if isinstance(code, int) else 0)


def explain(error: BaseException) -> tuple[str, str, int]:
    """What happened, the next step and the exit code."""
    if isinstance(error, TapeoutError):
        return error.what, error.help, error.exit_code
    if isinstance(error, Terminated):
        return "interrupted", KEPT, 143
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", KEPT, 130
    return f"{type(error).__name__}: {error}", "this is a fault of Tapeout: run again with --debug and report it", 6


def terminate(_: int, __: Any) -> None:
    """End on SIGTERM the way Ctrl-C ends: children stopped, scratch folders removed."""
    raise Terminated


def interrupt(_: int, __: Any) -> None:
    """End on the first Ctrl-C; one that follows must not cut short what stops children and removes scratch folders."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def stop(what: str, advice: str, code: int) -> None:
    """Print an error and its next step, and end; names that strangers chose reach the terminal as plain text."""
    from validate.safe_text import clean

    click.echo(f"error: {clean(what)}", err=True)
    click.echo(f"help: {clean(advice)}", err=True)
    sys.exit(code)
