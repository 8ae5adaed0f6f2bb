"""Which recipe to try next, which of those tried wins, and why none does.

The search holds no state: it is told what was measured so far and names the next recipe, so it resumes wherever the
store's values end, and the same measurements give the same choices. KL goes up as bytes go down, nearly; a prediction
is corrected by the ratio of measured to predicted KL of the recipes already tried, those of the same method first.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from quantize.candidates import Candidate
from quantize.recipe import parse_recipe
from quantize.sensitivity import Sensitivity, WeightCost
from targets.gates import Gates

# A recipe that failed by an unknown margin: the next should have this share of its KL.
SURELY_LESS = 0.85


@dataclass(frozen=True)
class Goal:
    """When a candidate is good enough, and when to stop looking for a smaller one.

    Attributes:
        kl_max: nats per token, the gate on mean KL.
        time_budget_s: no candidate is begun that is not expected to end within it.
        at_most: candidates tried.
        worthwhile: share of the bytes that one more try must save once a candidate has passed.
        spent_s: seconds of the time budget that are gone before the first try.
    """

    kl_max: float
    time_budget_s: float = math.inf
    at_most: int = 6
    worthwhile: float = 0.02
    spent_s: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """A candidate that was quantized, compiled and measured.

    Attributes:
        recipe: its name.
        weight_bytes: as stored.
        kl: nats per token, weights only, as measured.
        passed: every gate.
        tpot_ms: median time per output token, or None where no latency is measured.
        seconds: that trying it took.
        shortfall: as the function of that name computes it, or None when not known.
        reason: why it did not pass.
        whole: everything was measured; False where its weights alone showed that it fails, or it could not be built.
    """

    recipe: str
    weight_bytes: int
    kl: float
    passed: bool
    tpot_ms: float | None
    seconds: float
    shortfall: float | None = None
    reason: str = ""
    whole: bool = False

    @property
    def summary(self) -> str:
        """One line: how it went."""
        kl = f"KL {self.kl:.3g}" if math.isfinite(self.kl) else "not measured"
        verdict = "passes" if self.passed else f"fails: {self.reason}" if self.reason else "fails"
        return f"{self.recipe}: {self.weight_bytes / 1e6:.1f} MB, {kl}, {verdict}"


@dataclass(frozen=True)
class Explanation:
    """Why no candidate passes.

    Attributes:
        nearest: the outcome with the least KL.
        guilty: the weights that cost most, worst first, with the KL of quantizing each alone; none that the nearest
            outcome kept in 8 bits.
        would_pass: the smallest candidate expected to pass, or None when even the safest is not.
        expected_kl: of `would_pass`, nats per token, as far as is known.
    """

    nearest: Outcome | None
    guilty: tuple[WeightCost, ...]
    would_pass: Candidate | None
    expected_kl: float | None = None


def shortfall(kl: float, top1: float, perplexity_ratio: float, gates: Gates) -> float:
    """How many times smaller KL must be for the three gates on fidelity to pass; below 1 there is room.

    A perplexity ratio's excess over 1 goes with KL, and the share of changed top tokens with its square root.
    """
    return max(
        needed(kl, gates.kl_mean_max),
        needed(max(perplexity_ratio - 1.0, 0.0), gates.perplexity_ratio_max - 1.0),
        needed(1.0 - top1, 1.0 - gates.top1_min) ** 2,
    )


def needed(found: float, allowed: float) -> float:
    """`found` as a multiple of `allowed`; 0 when nothing is found, however little is allowed."""
    if found <= 0:
        return 0.0
    return found / allowed if allowed > 0 else math.inf


def kl_bound(outcomes: Iterable[Outcome], goal: Goal) -> float:
    """The KL a candidate should stay below: the gate's, or less where recipes that kept to it failed another gate."""
    bound = goal.kl_max
    for outcome in outcomes:
        if outcome.shortfall is not None and 1.0 < outcome.shortfall < math.inf:
            bound = min(bound, outcome.kl / outcome.shortfall)
        elif not outcome.passed and outcome.kl <= goal.kl_max:
            bound = min(bound, outcome.kl * SURELY_LESS)
    return bound


def next_candidate(candidates: tuple[Candidate, ...], outcomes: Iterable[Outcome], goal: Goal) -> Candidate | None:
    """What to try next, or None when the search is over.

    The smallest candidate that is expected to pass; while none is, the one expected to come nearest. After one passed,
    only what saves more than `goal.worthwhile` of its bytes.
    """
    tried = {outcome.recipe: outcome for outcome in outcomes}
    if len(tried) >= goal.at_most:
        return None
    passed = [outcome.weight_bytes for outcome in tried.values() if outcome.passed]
    ceiling = min(passed) * (1 - goal.worthwhile) if passed else math.inf
    open_ones = [one for one in candidates if one.recipe not in tried and one.weight_bytes < ceiling]
    bound = kl_bound(tried.values(), goal)
    hopeful = [one for one in open_ones if expected_kl(one, candidates, tried) <= bound]
    if hopeful:
        choice = min(hopeful, key=lambda one: (one.weight_bytes, one.recipe))
    elif not passed and open_ones:
        choice = min(open_ones, key=lambda one: (expected_kl(one, candidates, tried), one.weight_bytes, one.recipe))
    else:
        return None
    spent = goal.spent_s + math.fsum(sorted(outcome.seconds for outcome in tried.values()))
    return choice if not tried or spent + expected_seconds(tried) <= goal.time_budget_s else None


def expected_kl(one: Candidate, candidates: tuple[Candidate, ...], tried: dict[str, Outcome]) -> float:
    """The prediction, corrected by the tried candidate of the same method that is nearest in size.

    Of another method where none was tried; a recipe that could not be measured says nothing.
    """
    known = {candidate.recipe: candidate for candidate in candidates}
    pairs = [(known[name], outcome) for name, outcome in tried.items() if name in known and 0 < outcome.kl < math.inf]
    alike = [pair for pair in pairs if pair[0].method == one.method] or pairs
    alike = [pair for pair in alike if pair[0].predicted_kl > 0]
    if not alike:
        return one.predicted_kl
    near, outcome = min(
        alike, key=lambda pair: (abs(math.log(pair[0].weight_bytes / one.weight_bytes)), pair[0].recipe)
    )
    return one.predicted_kl * outcome.kl / near.predicted_kl


def expected_seconds(tried: dict[str, Outcome]) -> float:
    """As long as the longest tried so far."""
    return max((outcome.seconds for outcome in tried.values()), default=0.0)


def winner(outcomes: Iterable[Outcome]) -> Outcome | None:
    """The smallest that passed; among equals the faster one."""
    passed = [outcome for outcome in outcomes if outcome.passed]
    return min(passed, key=lambda one: (one.weight_bytes, one.tpot_ms or math.inf, one.kl, one.recipe), default=None)


def front(outcomes: Iterable[Outcome]) -> tuple[Outcome, ...]:
    """The outcomes than which no other is at least as small, as near and as fast, and better in one; smallest first."""
    found = sorted(outcomes, key=lambda one: (one.weight_bytes, one.kl, one.recipe))
    return tuple(one for one in found if not any(dominates(other, one) for other in found))


def dominates(one: Outcome, other: Outcome) -> bool:
    """No worse in bytes, KL and latency, and better in at least one of them; latency counts where both have it."""
    pairs = [(one.weight_bytes, other.weight_bytes), (one.kl, other.kl)]
    if one.tpot_ms is not None and other.tpot_ms is not None:
        pairs.append((one.tpot_ms, other.tpot_ms))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def explain(
    candidates: tuple[Candidate, ...], outcomes: Iterable[Outcome], sensitivity: Sensitivity, goal: Goal, worst: int = 5
) -> Explanation:
    """What stands in the way when `winner` finds none: `worst` is how many weights are named.

    `candidates` may be those of a larger byte budget than was searched: then `would_pass` says what it takes.
    """
    tried = {outcome.recipe: outcome for outcome in outcomes}
    nearest = min(tried.values(), key=lambda outcome: (outcome.kl, outcome.weight_bytes), default=None)
    kept = sensitivity.keep(parse_recipe(nearest.recipe).keep) if nearest is not None else frozenset()
    rounded = [cost for cost in sensitivity.weights if cost.name not in kept]
    guilty = sorted(rounded, key=lambda cost: (-cost.kl, cost.name))[:worst]
    bound = kl_bound(tried.values(), goal)
    expected = {one: expected_kl(one, candidates, tried) for one in candidates if one.recipe not in tried}
    enough = [one for one, kl in expected.items() if kl <= bound]
    smallest = min(enough, key=lambda one: (one.weight_bytes, one.recipe), default=None)
    return Explanation(nearest, tuple(guilty), smallest, expected[smallest] if smallest is not None else None)
