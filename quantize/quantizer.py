"""Hub -> Quantized: put the weights on a recipe's grid, once, for every runtime."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from export.hub import GRAPH, WEIGHTS, OnnxModel, copy_side_files
from export.model import ModelFacts
from quantize.awq import Fold
from quantize.calibrated import CalibratedInputs, quantize_decoder
from quantize.folds import replace_vectors, write_fold
from quantize.precision import conditions
from quantize.recipe import ClipPlan, Recipe, parse_recipe, recipe_name
from quantize.weight import QuantizedWeight, digest_weights
from targets.errors import NotForModel, StageFailed, UsageError

if TYPE_CHECKING:
    from quantize.hub_weights import WeightUse

# Offered in place of one that does not divide a weight's input channels.
GROUP_SIZES = (128, 64, 32)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class QuantizedModel:
    """The hub with quantized weights.

    Attributes:
        folder: `model.onnx`, its weights, the configuration and the tokenizer.
        facts: the architecture and its provenance.
        scheme: name of the scheme: the format of every linear weight that the recipe did not keep in 8 bits.
        counts: number of weights by code width (`int4`, `int8`); never all zero.
        weights: digest of each quantized weight by name, as `QuantizedWeight.digest` defines it.
        weights_digest: one digest over `weights` and `vectors`.
        weight_bytes: size of all stored weights.
        recipe: name of the recipe, as `quantize.recipe` spells it; the scheme alone when rounded to nearest.
        calibration: digest of the calibration tokens, or None when none were looked at.
        kept: the linear weights that stay in 8 bits though the scheme has fewer.
        conditions: what the last bits of a calibrated weight depend on beside its inputs; empty when not calibrated.
        vectors: digest of each norm's weight and each bias that the recipe changed, by name; `folds.safetensors` says
            what was folded into which weight.
    """

    folder: Path
    facts: ModelFacts
    scheme: str
    counts: dict[str, int]
    weights: dict[str, str]
    weights_digest: str
    weight_bytes: int
    recipe: str = ""
    calibration: str | None = None
    kept: tuple[str, ...] = ()
    conditions: dict[str, str] = field(default_factory=dict)
    vectors: dict[str, str] = field(default_factory=dict)

    @property
    def graph(self) -> Path:
        """The ONNX file."""
        return self.folder / GRAPH


def quantize_model(
    hub: OnnxModel, recipe: Recipe | str, out: Path, progress: Progress, inputs: CalibratedInputs | None = None
) -> QuantizedModel:
    """Quantize every linear weight, the embedding table and the head of `hub`.

    Args:
        hub: the float model; not changed.
        recipe: a recipe, or its name in the grammar of `quantize.recipe`.
        out: an empty folder.
        progress: called with (work done, work in all).
        inputs: what a calibrated recipe looks at.

    Raises:
        StageFailed: nothing was quantized, the scheme's groups fit no weight, or the calibrated decoder
            and the hub do not have the same weights.
        UsageError: the recipe is calibrated, and `inputs` are missing.
    """
    import onnx_ir as ir

    from quantize.hub_weights import find_weights, replace_weight

    plan = parse_recipe(recipe) if isinstance(recipe, str) else recipe
    model = ir.load(hub.graph)
    uses = find_weights(model, hub.facts.vocab_size)
    refuse_useless_groups(plan, [use.in_channels for use in uses if not use.embedding])
    weights, fold = recipe_weights(plan, uses, inputs, progress)
    counts: dict[str, int] = {}
    for use in uses:
        replace_weight(model, use, weights[use.name])
        counts[f"int{weights[use.name].bits}"] = counts.get(f"int{weights[use.name].bits}", 0) + 1
    if not counts.get(plan.format.precision):
        raise StageFailed(
            f"{recipe_name(plan)} quantized no weight of the hub", "report this model: its weights were not found"
        )
    vectors = replace_vectors(model, fold)
    ir.save(model, out / GRAPH, external_data=WEIGHTS)
    copy_side_files(hub.folder, out)
    write_fold(fold, out)
    digests = {use.name: weights[use.name].digest() for use in uses}
    kept = (use.name for use in uses if not use.embedding and weights[use.name].bits > plan.format.bits)
    calibrated = inputs is not None and plan.calibrated
    return QuantizedModel(
        folder=out,
        facts=hub.facts,
        scheme=plan.scheme,
        counts=counts,
        weights=digests,
        weights_digest=digest_weights(digests | vectors),
        weight_bytes=(out / WEIGHTS).stat().st_size,
        recipe=recipe_name(plan),
        calibration=inputs.calibration.digest if inputs is not None and calibrated else None,
        kept=tuple(kept),
        conditions=conditions() if calibrated else {},
        vectors=vectors,
    )


def recipe_weights(
    recipe: Recipe, uses: "list[WeightUse]", inputs: CalibratedInputs | None, progress: Progress
) -> tuple[dict[str, QuantizedWeight], Fold]:
    """The quantized weight of every use by name, and what was folded into them.

    Embedding tables and heads are rounded to nearest in every recipe: in 8 bits there is nothing to gain.

    Raises:
        StageFailed: the calibrated decoder and the hub do not have the same weights.
        UsageError: as `quantize_model`.
    """
    from quantize.nncf_backend import quantize_weight

    plain = uses if recipe.rounding is None and not recipe.calibrated else [use for use in uses if use.embedding]
    found: dict[str, QuantizedWeight] = {}
    for use in plain:
        scheme = recipe.format.embedding if use.embedding else recipe.format.for_inputs(use.in_channels)
        found[use.name] = quantize_weight(use.array(), scheme)
        progress(len(found), len(uses))
    rest = [use for use in uses if use.name not in found]
    if not rest:
        return found, Fold()
    if not recipe.calibrated:
        return found | clipped(recipe, rest, lambda done, _: progress(len(found) + done, len(uses))), Fold()
    if inputs is None:
        raise UsageError(f"{recipe_name(recipe)} needs calibration text and the float model", "calibrate first")
    placed = quantize_decoder(recipe, inputs, found, progress)
    strange = {use.name for use in rest} ^ set(placed.weights)
    if strange:
        raise StageFailed(
            f"the hub and the float model do not have the same weights: {', '.join(sorted(strange)[:3])}",
            "export the hub from this model",
        )
    return found | {name: weight.quantized() for name, weight in placed.weights.items()}, placed.fold


def clipped(recipe: Recipe, uses: "list[WeightUse]", progress: Progress) -> dict[str, QuantizedWeight]:
    """Weights rounded one by one, each with the scales of least squared error."""
    import torch

    from quantize.grid import fit

    plan = recipe.rounding if isinstance(recipe.rounding, ClipPlan) else ClipPlan()
    found: dict[str, QuantizedWeight] = {}
    for use in uses:
        found[use.name] = fit(
            torch.from_numpy(use.array()), recipe.format.for_inputs(use.in_channels), plan
        ).quantized()
        progress(len(found), len(uses))
    return found


def refuse_useless_groups(recipe: Recipe, in_channels: list[int]) -> None:
    """Refuse a group size that divides no weight's input channels: all of them would be channel-wise.

    Raises:
        NotForModel: names the sizes and what divides them all.
    """
    if in_channels and all(recipe.format.for_inputs(size) != recipe.format for size in in_channels):
        sizes = sorted(set(in_channels))
        fitting = [f"g{group}" for group in GROUP_SIZES if all(size % group == 0 for size in sizes)]
        raise NotForModel(
            f"no weight has input channels that groups of {recipe.format.group_size} divide: "
            f"there are {', '.join(map(str, sizes))}",
            f"choose a scheme that ends in {' or '.join((*fitting, 'cw'))}",
        )
