"""How many of a package's weights are done, for whoever watches."""

from dataclasses import dataclass

from export.model import Progress


@dataclass
class Tally:
    """Counts weights towards a total.

    Attributes:
        progress: told (done, total) after every step.
        total: steps in all.
        done: steps so far.
    """

    progress: Progress
    total: int
    done: int = 0

    def add(self, steps: int) -> None:
        """Some more are done."""
        self.done += steps
        self.progress(self.done, self.total)
