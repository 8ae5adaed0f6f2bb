"""Commands that build and judge: build, plan, validate."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tapeout.cli_seal import certificate_option, make_signer, passphrase_option
from tapeout.output import echo_json
from targets.errors import DeviceMissing, NotForModel, TapeoutError, UsageError
from targets.status import Verdict

if TYPE_CHECKING:
    from tapeout.jobs import Request
    from tapeout.sign import Signer
    from validate.report import Report

DEFAULT_MODEL = "smollm2-135m"
FORMATS = click.Choice(["text", "json"])
INCOMPLETE_UNDER_STRICT = 10

model_option = click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    help="A catalog name, a Hugging Face folder, hf:owner/name@<40-hex>, or a GGUF file.",
)
precision_option = click.option(
    "--precision",
    default="ladder",
    show_default=True,
    help="ladder (what the target names), int8, int4, or auto (search for the smallest that passes).",
)
text_option = click.option(
    "--text",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='Text to calibrate on, JSONL with {"text": ...} a line [sampled from the model].',
)
suite_option = click.option("--suite", is_flag=True, help="Run all of the in-vehicle suite and the stability prompts.")
questions_option = click.option(
    "--questions",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='Multiple-choice questions, JSONL with {"question", "choices", "answer"} a line.',
)
windows_option = click.option(
    "--windows",
    type=click.IntRange(min=1),
    help="Texts of 256 tokens that fidelity is measured on, its weights-only part too [8, and 4 of them].",
)
baseline_option = click.option(
    "--baseline",
    type=click.Path(exists=True, path_type=Path),
    help="An earlier bundle or report.json; worse than it beyond the target's [regression] fails.",
)
prefix_option = click.option(
    "--prefix",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A system prompt (text), or it and tools (.json), that every request begins with: ship its KV state.",
)
strict_option = click.option("--strict", is_flag=True, help="End with 10 while anything is INCOMPLETE.")
out_option = click.option(
    "--out", type=click.Path(path_type=Path), default=Path("artifacts"), show_default=True, help="Where bundles go."
)
format_option = click.option("--format", "form", type=FORMATS, default="text", show_default=True)
sequence_option = click.option(
    "--sequence", type=click.IntRange(min=0), default=0, show_default=True, help="Release number of the bundle."
)
sign_key_option = click.option(
    "--sign-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Sign the bundle with this private key, as `tapeout sign` does.",
)


@click.command()
@click.argument("target")
@model_option
@precision_option
@text_option
@suite_option
@questions_option
@prefix_option
@windows_option
@sequence_option
@sign_key_option
@passphrase_option
@certificate_option
@click.option("--until", type=click.Choice(["compile"]), help="Stop with packages that nobody measured: INCOMPLETE.")
@click.option("--check-reproducible", is_flag=True, help="Build twice, and end with 12 when the bundles differ.")
@baseline_option
@out_option
@strict_option
@format_option
@click.pass_context
def build(context: click.Context, /, target: str, model: str, precision: str, **options: Any) -> None:
    """Build the packages of TARGET, measure them and give the verdict."""
    request = make_request(target, model, precision, context.obj.store_path)
    request = dataclasses.replace(request, sequence=options["sequence"])
    request = with_files(request, options)
    from tapeout.cli_until import say_forecast

    say_forecast(request, context.obj.store_path, options["until"])
    if options["until"] is not None:
        from tapeout.cli_until import refuse_judging, run_until_compiled

        refuse_judging(context)
        run_until_compiled(context, request, options)
        return
    run_request(context, request, options, signer_of(options))


def signer_of(options: Mapping[str, Any]) -> "Signer | None":
    """Whoever signs the bundle; the key is opened before any work.

    Raises:
        UsageError: options that say how to sign, and no key.
    """
    if options["sign_key"] is None:
        if options["certificate"] or options["passphrase_env"]:
            raise UsageError("options of --sign-key without --sign-key", "name the private key with --sign-key")
        return None
    return make_signer(options["sign_key"], options["passphrase_env"], options["certificate"])


def run_request(
    context: click.Context, request: "Request", options: Mapping[str, Any], signer: "Signer | None" = None
) -> None:
    """Build, show the report, and end with its exit code."""
    from rich.console import Console

    from tapeout.store import Store
    from tapeout.unchanged import only_says, say_unchanged

    console = Console(stderr=True)
    store = Store(context.obj.store_path, warn=lambda text: console.print(f"[yellow]warning:[/] {text}"))
    if signer is None and only_says(options):
        verdict = say_unchanged(request, store, options["out"], console)
        if verdict is not None:
            context.exit(exit_code(verdict, strict=bool(options["strict"])))

    from tapeout.build import as_dictionary
    from tapeout.build import build as run_build
    from tapeout.step_summary import write_step_summary
    from tapeout.watch import watch
    from validate.render_terminal import render_terminal

    with watch(console) as watcher:
        built = run_build(request, store, options["out"], watcher, signer)
    if options["form"] == "json":
        echo_json(as_dictionary(built))
    else:
        render_terminal(built.report, console, built.folder / "report.html")
    if options.get("check_reproducible"):
        from tapeout.reproduce import arguments_of, check_reproducible

        check_reproducible(built.folder, context.obj.store_path, arguments_of(context.params["target"], request))
        click.echo("reproducible: a second build gave the same", err=True)
    write_step_summary(built.report)
    broken = [error for error in built.errors if not isinstance(error, DeviceMissing | NotForModel)]
    context.exit(broken[0].exit_code if broken else exit_code(built.report.verdict, strict=bool(options["strict"])))


def with_files(request: "Request", options: Mapping[str, Any]) -> "Request":
    """The request with the user's own files and suites, and the amount of text to judge on.

    Raises:
        UsageError: there is less text than that.
    """
    from validate.plans import WHOLE

    names = ("text", "questions", "baseline", "prefix")
    files: Any = {name: str(options[name].resolve()) if options.get(name) else None for name in names}
    plan = WHOLE if options["suite"] else request.experience
    request = dataclasses.replace(request, suite=options["suite"], experience=plan, **files)
    windows = options["windows"]
    if windows is None:
        return request
    from validate.golden_text import texts

    if windows > len(texts()):
        raise UsageError(f"--windows {windows} is more than the {len(texts())} texts there are", "ask for fewer")
    return dataclasses.replace(
        request, golden=dataclasses.replace(request.golden, windows=windows, weights_windows=windows)
    )


def make_request(target: str, model: str, precision: str, store: Path) -> "Request":
    """The request behind a command line; unknown names are refused here, before any work."""
    from tapeout.jobs import Request
    from targets.probe import probe_host
    from targets.target import load_target

    request = Request(load_target(target), model, precision, probe_host(), str(store.absolute().parent / ".downloads"))
    _ = request.parsed
    return request


def exit_code(verdict: Verdict, *, strict: bool) -> int:
    """0, 1 when a gate failed, 10 when something is missing and `strict`."""
    if verdict is Verdict.FAIL:
        return 1
    return INCOMPLETE_UNDER_STRICT if strict and verdict is Verdict.INCOMPLETE else 0


@click.command()
@click.argument("target")
@model_option
@precision_option
@format_option
@click.pass_context
def plan(context: click.Context, target: str, model: str, precision: str, form: str) -> None:
    """Say for each stage whether its result is stored, and if not why."""
    from dataclasses import asdict

    from tapeout.forecast import forecast
    from tapeout.foresee import foresee
    from tapeout.jobs import AUTO
    from tapeout.planning import make_plan
    from tapeout.store import Store

    request = make_request(target, model, precision, context.obj.store_path)
    climbed = None if precision == AUTO else request
    foreseen = foresee(make_plan(request), Store(context.obj.store_path), climbed)
    needed = forecast(request, None)
    if form == "json":
        echo_json([asdict(job) for job in foreseen])
        return
    for job in foreseen:
        name = f"{job.stage} {job.label}".strip()
        took = f"  ({job.seconds:.1f} s when it ran)" if job.seconds is not None else ""
        state = "hit " if job.hit else "miss" if job.needed else "skip"
        click.echo(f"{state}  {name:<40} {job.why}{took}")
    if needed is not None:
        click.echo(f"need  {needed}")


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the new reports [BUNDLE-validation].")
@baseline_option
@strict_option
@click.option("--on", "device", metavar="[USER@]HOST[:PORT]", help="Measure on this device, over SSH.")
@click.option("--on-device", "parts", multiple=True, help="Which device of the target it is; may be repeated.")
@click.option("--on-python", default="python3", show_default=True, help="Interpreter on the device.")
@click.option("--on-folder", default="~/.cache/tapeout", show_default=True, help="Where copies are kept on the device.")
@click.option("--on-timeout", default=3600, show_default=True, help="Seconds one package may take on the device.")
@click.pass_context
def validate(context: click.Context, /, bundle: Path, out: Path | None, strict: bool, **options: Any) -> None:
    """Measure the packages of BUNDLE on this machine, or on a device, and judge them again."""
    from rich.console import Console

    from tapeout.baseline import open_report
    from tapeout.revalidate import revalidate
    from validate.render_terminal import render_terminal

    console = Console(stderr=True)
    folder = out or bundle.resolve().parent / f"{bundle.resolve().name}-validation"
    error: TapeoutError | None = None

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    baseline = open_report(options["baseline"]) if options["baseline"] else None
    if options["device"] is None:
        refuse_lonely(context)
        report = revalidate(bundle, folder, say, baseline)
    else:
        report, error = validate_there(bundle, folder, {**options, "baseline": baseline}, say)
    render_terminal(report, console, folder / "report.html")
    if error is not None:
        raise error
    context.exit(exit_code(report.verdict, strict=strict))


def refuse_lonely(context: click.Context) -> None:
    """Refuse options that say how to use a device when none is named."""
    names = ("parts", "on_python", "on_folder", "on_timeout")
    given = [name for name in names if context.get_parameter_source(name) is not ParameterSource.DEFAULT]
    if given:
        raise UsageError("options of --on without --on", "name the device with --on user@host")


def validate_there(
    bundle: Path, out: Path, options: Mapping[str, Any], say: Callable[[str], None]
) -> "tuple[Report, TapeoutError | None]":
    """(the merged report, the first error of a package that the device could not run)."""
    from tapeout.remote import validate_on
    from tapeout.remote_place import Place, parse_place, ssh_client

    host, port = parse_place(options["device"])
    place = Place(host, port, options["on_python"], options["on_folder"], options["on_timeout"], ssh_client())
    validated = validate_on(place, bundle, out, options["parts"], say, options["baseline"])
    return validated.report, validated.errors[0] if validated.errors else None
