"""Say again what the last build of the same came to, where neither a stage nor a file of its bundle has changed."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapeout.foresee import look
from tapeout.jobs import Request
from tapeout.manifest import is_current
from tapeout.outcome import recall, skipped_jobs
from tapeout.planning import make_plan
from tapeout.step_summary import VARIABLE
from tapeout.store import Store
from tapeout.watch import watch
from targets.status import Verdict

if TYPE_CHECKING:
    from rich.console import Console


def only_says(options: Mapping[str, Any]) -> bool:
    """Whether a build with nothing to do has no more to do than to say so."""
    return options["form"] == "text" and not options.get("check_reproducible") and not os.environ.get(VARIABLE)


def say_unchanged(request: Request, store: Store, out: Path, console: "Console") -> Verdict | None:
    """Print the summary of a build with nothing to do, and give its verdict; None when there is something to do.

    Every file of the bundle is read and held against its digest.

    Raises:
        UsageError: as `make_plan`.
    """
    plan = make_plan(request)
    _, done = look(plan, store)
    outcome = recall(request, plan, done, store)
    folder = out / request.target.name / request.model_name
    if outcome is None or not is_current(folder, outcome.bundle):
        return None
    skipped = skipped_jobs(plan, outcome)
    with watch(console) as watcher:
        for job, result in done.items():
            if job not in skipped:
                watcher.finished(job, result)
    say(outcome.lines, folder, console)
    return Verdict(outcome.verdict)


def say(lines: tuple[str, ...], folder: Path, console: "Console") -> None:
    """Print a summary: the kept lines, or on a terminal the report drawn."""
    if console.is_terminal:
        from validate.render_terminal import render_terminal
        from validate.report import read_report

        render_terminal(read_report(folder / "report.json"), console, folder / "report.html")
        return
    for line in (*lines, f"report: {folder / 'report.html'}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
