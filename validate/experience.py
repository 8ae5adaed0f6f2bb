"""What users feel, beside the float model: stable answers, the in-vehicle suite, the user's own questions.

The float model's side is computed once, from the hub, and travels with the bundle; a package is asked the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from export.digest import digest_file
from export.hub import OnnxModel
from validate.choices import Choices, measure_choices
from validate.plans import ExperiencePlan
from validate.stability import Stability, measure_stability
from validate.vehicle_calls import VehicleCalls, measure_calls
from validate.vehicle_golden import golden_experience
from validate.vehicle_guided import GuidedCalls, measure_guided
from validate.vehicle_ranking import VehicleRanking, measure_ranking

if TYPE_CHECKING:
    from compile.package import Package
    from validate.runtime import Pipeline, Session

Progress = Callable[[int, int], None]

# Loss of accuracy that a product tolerates where its target names none.
MARGIN = 0.03
GUIDED = 8  # calls through the runtime's own structured output: enough to see whether it works

VEHICLE, CALLS, STABILITY, CHOICES = "vehicle.json", "vehicle_calls.json", "stability.json", "choices.json"


@dataclass(frozen=True)
class Experience:
    """The float model's side.

    Attributes:
        folder: holds `files`.
        plan: how much was asked.
        files: what is there: no suite where its prompt does not fit the model's context, no choices without questions.
        digest: over the files.
    """

    folder: Path
    plan: ExperiencePlan
    files: tuple[str, ...]
    digests: dict[str, str]


@dataclass(frozen=True)
class Felt:
    """A package's side, compared with the float model's. None: not measured.

    Attributes:
        stability: of greedy answers.
        ranking: of the in-vehicle suite's calls by log-likelihood.
        calls: written under the suite's grammar.
        guided: written under the runtime's own structured output.
        choices: the user's questions.
    """

    stability: Stability | None = None
    ranking: VehicleRanking | None = None
    calls: VehicleCalls | None = None
    guided: GuidedCalls | None = None
    choices: Choices | None = None


def record_experience(
    hub: OnnxModel, plan: ExperiencePlan, questions: Path | None, out: Path, progress: Progress
) -> Experience:
    """Ask the float model and write what it said to the empty folder `out`.

    Raises:
        InputRefused: the questions are not what `validate.choices` reads.
    """
    written = golden_experience(hub, plan, questions, out, progress)
    digests = {path.name: digest_file(path) for path in written}
    return Experience(out, plan, tuple(path.name for path in written), digests)


def measure_experience(
    session: "Session", pipeline: "Pipeline", package: "Package", experience: Experience, progress: Progress
) -> Felt:
    """Ask a package, as it ships, what the float model was asked."""
    folder, found = experience.folder, set(experience.files)
    steps = len(found) + (1 if CALLS in found else 0)
    done = 0

    def step() -> Progress:
        nonlocal done
        before, done = done, done + 1
        return lambda part, total: progress(100 * before // steps + 100 * part // (steps * total), 100)

    ranking = measure_ranking(session, folder / VEHICLE, None, MARGIN, step()) if VEHICLE in found else None
    calls = measure_calls(session, folder, package.folder, None, MARGIN, step()) if CALLS in found else None
    return Felt(
        stability=measure_stability(pipeline, folder / STABILITY, None, step()) if STABILITY in found else None,
        ranking=ranking,
        calls=calls,
        guided=measure_guided(pipeline, folder, GUIDED, step()) if CALLS in found else None,
        choices=measure_choices(session, folder / CHOICES, package.folder, None, MARGIN, step())
        if CHOICES in found
        else None,
    )
