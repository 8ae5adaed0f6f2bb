"""Package + golden reference -> how far its weights are from the float model, and nothing else.

The first that is known of a package, in seconds: what fails here fails for good, and the rest need not be measured.
The figure is the same that a whole measurement takes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from compile.package import Package
from validate.golden import Golden
from validate.measurement import Fidelity
from validate.runtime import WEIGHTS, find_runtime
from validate.windows import measure_fidelity, weights_coverage

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Screened:
    """The fidelity of one package's weights.

    Attributes:
        folder: empty; the figures are the value.
        fidelity: in float32 arithmetic; None for a back end without a runtime.
    """

    folder: Path
    fidelity: Fidelity | None


def screen_package(package: Package, golden: Golden, out: Path, progress: Progress) -> Screened:
    """Compare the weights of `package` with the float model through the package's own runtime."""
    runtime = find_runtime(package.backend)
    if runtime is None:
        return Screened(out, None)
    session = runtime.session(package.folder, package.settings, WEIGHTS)
    return Screened(out, measure_fidelity(session, golden, weights_coverage(golden), progress))
