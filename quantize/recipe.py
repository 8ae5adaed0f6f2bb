"""Recipes: a storage scheme and how the numbers in it are chosen, as data with a name that people can type.

    w4-sym-g64                       round to nearest
    w4-sym-g64+clip                  the scale of every group minimises its squared error
    w4-sym-g64+awq                   AWQ: input channels that matter are widened, what feeds them is narrowed
    w4-sym-g64+scale                 scales by NNCF's scale estimation, from what each weight is multiplied by
    w4-sym-g64+awq+scale             both
    w4-sym-cw+gptq                   GPTQ, layer after layer, each seeing what the layers before it became
    w4-asym-g64+gptq+distill         then codes and scales trained end to end against the float model's own distribution
    w4-asym-g64+keep20+gptq+distill  the fifth of the decoder's weights that hurts most stays in 8 bits

The part before the first `+` is a scheme of `quantize.scheme` and is what a device's legality is about; a recipe that
keeps weights also stores 8-bit ones. The steps come in the order above, each at most once: one spelling per recipe.
"""

import re
from dataclasses import dataclass, replace

from quantize.scheme import Scheme, parse_scheme
from targets.errors import UsageError
from targets.names import suggestion


@dataclass(frozen=True)
class ClipPlan:
    """Scales by least squared error.

    Attributes:
        candidates: how many scales are tried for a group.
        smallest: the least of them, as a share of the one that clips nothing.
    """

    candidates: int = 12
    smallest: float = 0.6


# Round to nearest: one scale is tried, that which clips nothing.
NEAREST = ClipPlan(candidates=1, smallest=1.0)


@dataclass(frozen=True)
class AwqPlan:
    """AWQ (Lin et al., arXiv 2306.00978).

    Attributes:
        sequences: of the calibration tokens that are run through the decoder.
        steps: powers from 0 up to, not with, 1 that are tried of the inputs' mean magnitude.
    """

    sequences: int = 32
    steps: int = 16


@dataclass(frozen=True)
class ScalePlan:
    """NNCF's scale estimation, with the defaults of `nncf.compress_weights`.

    Attributes:
        sequences: of the calibration tokens that are run through the decoder.
        averaged: tokens whose inputs are averaged to one sample, as NNCF averages those of a text.
        samples: that the error is measured on.
        initial_steps: scales by a weighted mean.
        scale_steps: scales of a grid below the first.
    """

    sequences: int = 32
    averaged: int = 256
    samples: int = 64
    initial_steps: int = 5
    scale_steps: int = 5


@dataclass(frozen=True)
class GptqPlan:
    """GPTQ (Frantar et al., arXiv 2210.17323).

    Attributes:
        clip: how the scales are chosen before; errors are weighted by the mean square of their input.
        sequences: of the calibration tokens that are run through the decoder.
        damping: added to the diagonal of the Hessian, as a share of its mean.
        mending: how hard a weight is held where it was while it is moved to mend earlier errors, as a share of the mean
            of the Hessian's diagonal; 0 moves none.
        block: input channels between two updates of those that follow.
    """

    clip: ClipPlan = ClipPlan()
    sequences: int = 48
    damping: float = 0.01
    mending: float = 0.05
    block: int = 96


@dataclass(frozen=True)
class DistillPlan:
    """Codes and scales trained together to give the float model's next-token distribution.

    Attributes:
        steps: updates; the rates fall along a half cosine.
        batch: sequences an update.
        code_rate: Adam's rate for the weights, in code units (1 is the distance of two neighbouring codes).
        scale_rate: Adam's rate for the scales, as a share of each.
        seed: of the order in which sequences are drawn.
    """

    steps: int = 100
    batch: int = 4
    code_rate: float = 0.0005
    scale_rate: float = 0.0003
    seed: int = 20261122


Rounding = ClipPlan | ScalePlan | GptqPlan

FOLDS: dict[str, AwqPlan] = {"awq": AwqPlan()}
ROUNDINGS: dict[str, Rounding] = {"clip": ClipPlan(), "scale": ScalePlan(), "gptq": GptqPlan()}
TUNINGS: dict[str, DistillPlan] = {"distill": DistillPlan()}
STEPS = {type(plan): step for table in (FOLDS, ROUNDINGS, TUNINGS) for step, plan in table.items()}

# Methods that other tools have: why they are no step here, and what to write instead.
REFUSED = {
    "lora": (
        "LoRA correction adds two float matrices beside every weight, so the graph is no longer one that every runtime"
        " takes: NPUs refuse or leave the branches to the CPU, and no two runtimes would hold the same weights",
        "write 'gptq' or 'gptq+distill': they correct the same error inside the weights",
    )
}

_KEEP = re.compile(r"keep([1-9][0-9]?)", re.ASCII)


@dataclass(frozen=True)
class Recipe:
    """One way to quantize a model.

    Attributes:
        scheme: how the decoder's linear weights are stored.
        keep: percent of those weights that stay in 8 bits, the most sensitive first.
        rounding: how codes and scales are chosen for one weight; None rounds to nearest.
        tuning: what is trained afterwards, or None.
        fold: what is multiplied into the float weights before they are rounded, or None.
    """

    scheme: str
    keep: int = 0
    rounding: Rounding | None = None
    tuning: DistillPlan | None = None
    fold: AwqPlan | None = None

    @property
    def format(self) -> Scheme:
        """The scheme, decoded."""
        return parse_scheme(self.scheme)

    @property
    def calibrated(self) -> bool:
        """It needs the float model and calibration tokens."""
        looks = isinstance(self.rounding, ScalePlan | GptqPlan)
        return bool(self.keep) or looks or self.tuning is not None or self.fold is not None

    @property
    def kept_scheme(self) -> Scheme:
        """How kept weights are stored: like the embedding table."""
        return self.format.embedding


def recipe_name(recipe: Recipe) -> str:
    """The recipe in the grammar above; parameters that differ from the tables' do not show."""
    steps = [f"keep{recipe.keep}"] if recipe.keep else []
    steps += [STEPS[type(plan)] for plan in (recipe.fold, recipe.rounding, recipe.tuning) if plan is not None]
    return "+".join([recipe.scheme, *steps])


def parse_recipe(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        UsageError: the scheme or a step is unknown, or the name is not the one spelling of its recipe.
    """
    scheme, *steps = name.split("+")
    parse_scheme(scheme)
    recipe = Recipe(scheme)
    for step in steps:
        recipe = add_step(recipe, step, name)
    if recipe_name(recipe) != name:
        raise UsageError(f"the recipe '{name}' has its steps twice or out of order", f"write '{recipe_name(recipe)}'")
    if recipe.format.bits == 8:
        refuse_for_8_bits(recipe, name)
    return recipe


def add_step(recipe: Recipe, step: str, name: str) -> Recipe:
    """The recipe with one more step of the recipe called `name`.

    Raises:
        UsageError: there is no such step here.
    """
    kept = _KEEP.fullmatch(step)
    if kept:
        return replace(recipe, keep=int(kept[1]))
    if step in FOLDS:
        return replace(recipe, fold=FOLDS[step])
    if step in ROUNDINGS:
        return replace(recipe, rounding=ROUNDINGS[step])
    if step in TUNINGS:
        return replace(recipe, tuning=TUNINGS[step])
    if step in REFUSED:
        why, instead = REFUSED[step]
        raise UsageError(f"the recipe '{name}' cannot be built: {why}", instead)
    known = [*FOLDS, *ROUNDINGS, *TUNINGS, "keep10", "keep20", "keep30"]
    raise UsageError(f"unknown step '{step}' in the recipe '{name}'", suggestion(step, known))


def refuse_for_8_bits(recipe: Recipe, name: str) -> None:
    """Refuse steps that do nothing for 8-bit weights.

    Raises:
        UsageError: names the first.
    """
    if recipe.keep:
        raise UsageError(f"'{name}' keeps weights in 8 bits that are 8-bit anyway", f"write '{recipe.scheme}'")
    if recipe.fold is not None or isinstance(recipe.rounding, ScalePlan):
        raise UsageError(
            f"'{name}' scales 8-bit weights, which NNCF and AWQ leave alone: there is nothing to gain",
            f"write '{recipe.scheme}' or '{recipe.scheme}+clip'",
        )
