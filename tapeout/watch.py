"""Show a build while it runs: progress bars on a terminal, one line per stage elsewhere, all on standard error."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from tapeout.executor import Done, Watcher
from tapeout.jobs import Job

TITLES = {
    "import": "import the model",
    "export": "export to the ONNX hub",
    "golden": "record the float model's answers",
    "calibrate": "sample text to calibrate on",
    "sensitivity": "find what each weight costs",
    "experience": "record the float model in the in-vehicle suite",
    "quantize": "quantize",
    "ranges": "find the range of every activation",
    "compile": "compile",
    "prefix": "compute the prompt cache of",
    "screen": "compare the weights of",
    "measure": "validate",
    "diagnose": "find the weights to blame in",
}
WIDTH = 44


def title(job: Job) -> str:
    """What a job does, for people."""
    return f"{TITLES[job.stage]} {job.label}".strip()


class Lines:
    """One line when a stage starts and one when it ends."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def noted(self, text: str) -> None:
        """Say what a search is about to do."""
        self.console.print(f"note  {text}", markup=False, highlight=False, soft_wrap=True)

    def started(self, job: Job, why: str) -> None:
        """Say that a job runs."""
        self.console.print(f"run   {title(job)} ({why})", markup=False, highlight=False, soft_wrap=True)

    def advanced(self, job: Job, done: int, total: int) -> None:
        """Lines do not move."""

    def waiting(self, job: Job) -> None:
        """Say that another build has it."""
        self.console.print(f"wait  {title(job)}: another build is making it", markup=False, highlight=False)

    def finished(self, job: Job, result: Done) -> None:
        """Say that a job is done."""
        took = "cached" if result.cached else f"{result.record.seconds:.1f} s"
        self.console.print(f"done  {title(job)} [{took}]", markup=False, highlight=False)


class Bars:
    """A bar for every running stage; finished stages stay as lines above."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self.console = console
        self.progress = progress
        self.tasks: dict[Job, TaskID] = {}
        self.lock = threading.Lock()

    def noted(self, text: str) -> None:
        """Say what a search is about to do, above the bars."""
        self.console.print(text, style="bold", markup=False, highlight=False)

    def started(self, job: Job, why: str) -> None:
        """Add a bar that pulses until the job says how far it is."""
        with self.lock:
            self.tasks[job] = self.progress.add_task(title(job)[:WIDTH], total=None)

    def advanced(self, job: Job, done: int, total: int) -> None:
        """Move the bar."""
        self.progress.update(self.tasks[job], completed=done, total=total)

    def waiting(self, job: Job) -> None:
        """Say that another build has it."""
        self.console.print(f"[yellow]…[/] {title(job)}: another build is making it")

    def finished(self, job: Job, result: Done) -> None:
        """Replace the bar by a line."""
        with self.lock:
            task = self.tasks.pop(job, None)
        if task is not None:
            self.progress.remove_task(task)
        took = "[dim]cached[/]" if result.cached else f"{result.record.seconds:.1f} s"
        self.console.print(f"[green]✓[/] {title(job):<{WIDTH}} {took}")


@contextmanager
def watch(console: Console) -> Iterator[Watcher]:
    """The watcher for this console."""
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bars(console, progress)
