"""The recipes a device may take, with the bytes they come to and the KL to expect, before any of them is tried."""

from dataclasses import dataclass

from export.model import ModelFacts
from quantize.recipe import Recipe, parse_recipe, recipe_name
from quantize.scheme import Scheme, parse_scheme
from quantize.sensitivity import Sensitivity
from targets.errors import UsageError
from targets.legality import CHANNEL_WISE, LEGALITY, check_recipe, legal_schemes
from targets.names import choose

SCALE_BYTES = 4

# What is tried of every legal scheme, and how many percent are kept in 8 bits where 8 bits are legal. Training takes
# three times as long as all else together and saves some percent of the bytes: only a thorough search does it.
STEPS_4 = ("gptq",)
THOROUGH_STEPS_4 = ("gptq", "gptq+distill")
STEPS_8 = ("", "clip")
KEPT = (0, 5, 10, 20, 30, 40, 50)

# KL to expect is `share * total ** power` of the added costs of the rounded weights. GPTQ takes more from a weight the
# more it costs, so that twice the cost is not twice the KL. Fitted to SmolLM2-135M (a cost of 1.07 left a KL of 0.151,
# 0.31 left 0.070, 0.13 left 0.046) and only a first guess: the search corrects it by what it measures.
EXPECTED: dict[str, tuple[float, float]] = {
    "": (0.65, 1.0),
    "clip": (0.55, 1.0),
    "gptq": (0.146, 0.55),
    "gptq+distill": (0.115, 0.55),
}

# A step from 4 to 8 bits divides a rounding error by 16, and KL goes with its square.
EIGHT_BIT_SHARE = 1 / 256

# A weight's squared rounding error against that of asymmetric groups of 64: by the expected range of so many normal
# numbers, a whole channel by what rounding SmolLM2 to nearest costs.
RANGE_SQUARED = {16: 0.54, 32: 0.76, 64: 1.0, 128: 1.25, 192: 1.4, 256: 1.51}
CHANNEL_RANGE_SQUARED = 1.75
SYMMETRIC_SHARE = 1.1


@dataclass(frozen=True)
class Candidate:
    """A recipe that may be tried.

    Attributes:
        recipe: its name.
        weight_bytes: all weights as the hub will store them.
        predicted_kl: nats per token, weights only.
    """

    recipe: str
    weight_bytes: int
    predicted_kl: float

    @property
    def method(self) -> str:
        """The steps after the scheme without what is kept: `gptq+distill`."""
        return method_of(self.recipe)


def method_of(recipe: str) -> str:
    """The steps of a recipe's name without what is kept."""
    return "+".join(step for step in recipe.split("+")[1:] if not step.startswith("keep"))


def list_candidates(
    facts: ModelFacts,
    sensitivity: Sensitivity,
    legality: str | tuple[str, ...],
    byte_budget: int | None = None,
    thorough: bool = False,
) -> tuple[Candidate, ...]:
    """Every recipe that a device takes, smallest first, none larger and worse than another.

    Args:
        facts: of the model.
        sensitivity: of its weights.
        legality: name of a table of `targets.legality`, or those of all runtimes that are to have the same weights.
        byte_budget: the most its weights may take, or None.
        thorough: recipes that train are offered too.

    Raises:
        UsageError: no such table.
    """
    tables = (legality,) if isinstance(legality, str) else legality
    widths = choose(tables[0], LEGALITY, "legality table").weight_bits
    steps_4 = THOROUGH_STEPS_4 if thorough else STEPS_4
    names = []
    for scheme in legal_schemes(tables[0]):
        if parse_scheme(scheme).bits == 8:
            names += ["+".join(filter(None, (scheme, steps))) for steps in STEPS_8]
            continue
        kept = KEPT if 8 in widths else (0,)
        names += [
            "+".join((scheme, *([f"keep{share}"] if share else []), steps)) for share in kept for steps in steps_4
        ]
    found = [
        Candidate(recipe_name(recipe), weight_bytes(recipe, facts, sensitivity), predict_kl(recipe, sensitivity))
        for recipe in map(parse_recipe, names)
        if fits(recipe, sensitivity) and all(is_legal(recipe_name(recipe), table) for table in tables[1:])
    ]
    within = [one for one in found if byte_budget is None or one.weight_bytes <= byte_budget]
    return undominated(within)


def undominated(candidates: list[Candidate]) -> tuple[Candidate, ...]:
    """Those than which no other is both smaller and better, smallest first."""
    front: list[Candidate] = []
    for one in sorted(candidates, key=lambda one: (one.weight_bytes, one.predicted_kl, one.recipe)):
        if not front or one.predicted_kl < front[-1].predicted_kl:
            front.append(one)
    return tuple(front)


def is_legal(recipe: str, legality: str) -> bool:
    """Whether a device takes a recipe."""
    try:
        check_recipe(recipe, legality)
    except UsageError:
        return False
    return True


def fits(recipe: Recipe, sensitivity: Sensitivity) -> bool:
    """Its groups divide some weight's input channels."""
    return any(recipe.format.for_inputs(cost.shape[1]) == recipe.format for cost in sensitivity.weights)


def stored_bytes(shape: tuple[int, int], scheme: Scheme) -> int:
    """A weight [out, in] in the hub: codes, float32 scales, and zero points as wide as codes when asymmetric."""
    out_channels, in_channels = shape
    fitting = scheme.for_inputs(in_channels)
    groups = 1 if fitting.group_size == CHANNEL_WISE else in_channels // fitting.group_size
    half_bytes = fitting.bits // 4
    zero_points = 0 if fitting.symmetric else (out_channels * groups * half_bytes + 1) // 2
    return (out_channels * in_channels * half_bytes + 1) // 2 + out_channels * groups * SCALE_BYTES + zero_points


def weight_bytes(recipe: Recipe, facts: ModelFacts, sensitivity: Sensitivity) -> int:
    """Bytes of all quantized weights of the model under `recipe`; norms and biases, some thousand numbers, left out."""
    kept = sensitivity.keep(recipe.keep)
    tables = 1 if facts.tied_embeddings else 2
    total = tables * stored_bytes((facts.vocab_size, facts.hidden_size), recipe.kept_scheme)
    for cost in sensitivity.weights:
        total += stored_bytes(cost.shape, recipe.kept_scheme if cost.name in kept else recipe.format)
    return total


def predict_kl(recipe: Recipe, sensitivity: Sensitivity) -> float:
    """KL to expect: the costs of single weights, as if they added up, scaled to the scheme and the method."""
    kept = sensitivity.keep(recipe.keep)
    measured = parse_scheme(sensitivity.scheme)
    total = 0.0
    for cost in sensitivity.weights:
        scheme = recipe.kept_scheme if cost.name in kept else recipe.format
        total += max(cost.kl, 0.0) * squared_error(scheme, cost.shape[1]) / squared_error(measured, cost.shape[1])
    share, power = EXPECTED[method_of(recipe_name(recipe))]
    return float(share * total**power)


def squared_error(scheme: Scheme, in_channels: int) -> float:
    """Squared rounding error of a scheme against asymmetric 4-bit groups of 64."""
    fitting = scheme.for_inputs(in_channels)
    size = CHANNEL_RANGE_SQUARED if fitting.group_size == CHANNEL_WISE else nearest_range(fitting.group_size)
    share = SYMMETRIC_SHARE if fitting.symmetric else 1.0
    return size * share * (EIGHT_BIT_SHARE if fitting.bits == 8 else 1.0)


def nearest_range(group_size: int) -> float:
    """The entry of `RANGE_SQUARED` for the listed group size nearest to `group_size`."""
    return RANGE_SQUARED[min(RANGE_SQUARED, key=lambda size: abs(size - group_size))]
