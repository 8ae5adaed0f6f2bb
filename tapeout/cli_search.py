"""The command that looks for the smallest package that keeps its promises: search."""

import dataclasses
from typing import Any

import click

from tapeout.cli_build import (
    format_option,
    make_request,
    model_option,
    out_option,
    questions_option,
    run_request,
    sequence_option,
    sign_key_option,
    signer_of,
    strict_option,
    suite_option,
    text_option,
    windows_option,
    with_files,
)
from tapeout.cli_seal import certificate_option, passphrase_option


@click.command()
@click.argument("target")
@model_option
@text_option
@suite_option
@questions_option
@windows_option
@click.option("--minutes", default=30.0, show_default=True, help="Time budget; a recipe that was begun is finished.")
@click.option("--max-mb", type=float, help="The most that a package's weights may take, in 10^6 bytes.")
@sequence_option
@sign_key_option
@passphrase_option
@certificate_option
@out_option
@strict_option
@format_option
@click.pass_context
def search(context: click.Context, /, target: str, model: str, **options: Any) -> None:
    """Find the smallest packages of TARGET that pass every gate, and build the bundle with them."""
    from tapeout.jobs import AUTO

    request = dataclasses.replace(
        make_request(target, model, AUTO, context.obj.store_path),
        time_budget_s=60 * options["minutes"],
        weight_bytes_max=None if options["max_mb"] is None else int(options["max_mb"] * 1e6),
        sequence=options["sequence"],
    )
    run_request(context, with_files(request, options), options, signer_of(options))
