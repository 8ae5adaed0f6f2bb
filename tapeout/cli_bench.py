"""The command that times packages beside what a user would pick instead: bench."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import click

from targets.errors import UsageError

HERE = click.Path(exists=True, path_type=Path)
OUT = Path("artifacts") / "bench"
PROMPTS = (16, 512)


@click.command()
@click.argument("bundle", type=HERE, required=False)
@click.option("--peers", type=HERE, help="A TOML file of what to compare with: see docs/performance.md.")
@click.option(
    "--also", multiple=True, metavar="NAME=KIND:PATH", help="A package that is in no bundle; may be repeated."
)
@click.option("--rounds", default=5, show_default=True, help="Runs of each, interleaved.")
@click.option("--prompt", "prompts", multiple=True, type=int, help="Tokens of a prompt; may be repeated [16, 512].")
@click.option("--tokens", "new_tokens", default=64, show_default=True, help="Timed after the first.")
@click.option("--threads", type=int, help="Of every runtime [the processors this process may use].")
@click.option("--clock", type=click.Choice(["wall", "cpu"]), default="wall", show_default=True, help="What is timed.")
@click.option("--golden", type=HERE, help="A bundle of the same model whose reference gives the fidelity [BUNDLE].")
@click.option("--name", default="bench", show_default=True, help="Of the files in --out.")
@click.option("--out", type=click.Path(path_type=Path), default=OUT, show_default=True, help="Folder for the results.")
def bench(bundle: Path | None, peers: Path | None, also: tuple[str, ...], golden: Path | None, **options: Any) -> None:
    """Time the CPU packages of BUNDLE and others beside peers, in interleaved rounds; write JSON and Markdown."""
    from tapeout.bench import run_bench
    from tapeout.bench_result import markdown
    from tapeout.bench_subjects import bundle_subjects, check_names, named_subject, read_peers
    from tapeout.manifest import read_manifest
    from tapeout.revalidate import read_references
    from tapeout.values import plain

    plan = plan_of(options)
    subjects = list(bundle_subjects(bundle, read_manifest(bundle))) if bundle else []
    subjects += [*map(named_subject, also), *(read_peers(peers) if peers else ())]
    check_names(subjects)
    source = golden or bundle
    reference = read_references(source, read_manifest(source)).golden if source else None
    result = run_bench(subjects, plan, reference, lambda text: click.echo(text, err=True))
    folder, name = options["out"], options["name"]
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(plain(dataclasses.asdict(result)), indent=1, sort_keys=True, allow_nan=False)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(markdown(result), encoding="utf-8")
    click.echo(markdown(result), nl=False)


def plan_of(options: dict[str, Any]) -> Any:
    """How much is timed.

    Raises:
        UsageError: a number below one.
    """
    from tapeout.bench import BenchPlan

    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = here if options["threads"] is None else options["threads"]
    plan = BenchPlan(options["rounds"], options["prompts"] or PROMPTS, options["new_tokens"], threads, options["clock"])
    if min(plan.rounds, *plan.prompts, plan.new_tokens, plan.threads) < 1:
        raise UsageError("rounds, prompts, tokens and threads are at least one", "leave the options out")
    return plan
