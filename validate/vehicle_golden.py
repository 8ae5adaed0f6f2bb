"""What the float model says where users feel a difference: one golden step, so that a device needs no float model."""

from collections.abc import Callable
from pathlib import Path

from export.hub import OnnxModel
from validate.choices import golden_choices
from validate.plans import ExperiencePlan
from validate.stability import golden_stability
from validate.vehicle_calls import golden_calls
from validate.vehicle_ranking import golden_ranking

Progress = Callable[[int, int], None]

# Shares of the time, for one progress bar over everything.
RANKED, CALLED, ANSWERED, CHOSEN = 50, 10, 20, 20


def golden_experience(
    hub: OnnxModel, plan: ExperiencePlan, questions: Path | None, out: Path, progress: Progress
) -> tuple[Path, ...]:
    """Run the float hub over the in-vehicle suite, the stability prompts and the user's `questions`.

    Writes `vehicle.json`, `vehicle_calls.json`, `stability.json` and `choices.json` to `out` and returns what it wrote:
    no suite where its prompt does not fit the model's context, no choices without questions.

    Raises:
        InputRefused: the questions are not what `validate.choices` reads.
    """

    def within(before: int, share: int) -> Progress:
        return lambda done, total: progress(before + share * done // total, 100)

    written = []
    ranked = golden_ranking(hub, plan.requests, out, within(0, RANKED))
    if ranked is not None:
        written += [ranked, golden_calls(hub, ranked, plan.calls, out, within(RANKED, CALLED))]
    answered = within(RANKED + CALLED, ANSWERED)
    written.append(golden_stability(hub, plan.prompts, plan.answer_tokens, out, answered))
    if questions is not None:
        written.append(golden_choices(hub, questions, out, within(100 - CHOSEN, CHOSEN)))
    progress(100, 100)
    return tuple(written)
