"""Hub -> Quantized: put the weights on a recipe's grid, once, for every runtime."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from export.hub import GRAPH, WEIGHTS, OnnxModel, copy_side_files, load_hub
from export.model import ModelFacts
from quantize.awq import Fold
from quantize.calibrated import CalibratedInputs, quantize_decoder
from quantize.folds import replace_vectors, write_fold
from quantize.precision import conditions
from quantize.recipe import ClipPlan, Recipe, parse_recipe, recipe_name
from quantize.scheme import Scheme
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

    from export.tensor_file import TensorFile
    from quantize.hub_weights import find_weights, replace_weight

    plan = parse_recipe(recipe) if isinstance(recipe, str) else recipe
    model = load_hub(hub)
    uses = find_weights(model, hub.facts.vocab_size)
    refuse_useless_groups(plan, [use.in_channels for use in uses if not use.embedding])
    held, fold = calibrated_weights(plan, uses, inputs, progress)
    if plan.format.bits not in {held[use.name].bits if use.name in held else scheme_of(plan, use).bits for use in uses}:
        raise StageFailed(
            f"{recipe_name(plan)} quantized no weight of the hub", "report this model: its weights were not found"
        )
    digests, kept, counts = {}, [], dict[str, int]()
    with TensorFile(out / WEIGHTS) as file:
        for use in uses:
            weight = held.pop(use.name, None) or round_weight(plan, use)
            replace_weight(model, use, weight, file)
            digests[use.name] = weight.digest()
            counts[f"int{weight.bits}"] = counts.get(f"int{weight.bits}", 0) + 1
            kept += [use.name] if not use.embedding and weight.bits > plan.format.bits else []
            if not plan.calibrated:
                progress(len(digests), len(uses))
    vectors = replace_vectors(model, fold)
    ir.save(model, out / GRAPH)
    copy_side_files(hub.folder, out)
    write_fold(fold, out)
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


def calibrated_weights(
    recipe: Recipe, uses: "list[WeightUse]", inputs: CalibratedInputs | None, progress: Progress
) -> tuple[dict[str, QuantizedWeight], Fold]:
    """What a recipe that looks at more than the weights makes of them, by name, and what it folded into them.

    Empty for any other recipe: its weights are rounded one at a time.

    Raises:
        StageFailed: the calibrated decoder and the hub do not have the same weights.
        UsageError: as `quantize_model`.
    """
    if not recipe.calibrated:
        return {}, Fold()
    if inputs is None:
        raise UsageError(f"{recipe_name(recipe)} needs calibration text and the float model", "calibrate first")
    found = {use.name: round_weight(recipe, use) for use in uses if use.embedding}
    placed = quantize_decoder(recipe, inputs, found, lambda done, all_: progress(len(found) + done, len(found) + all_))
    strange = {use.name for use in uses if not use.embedding} ^ set(placed.weights)
    if strange:
        raise StageFailed(
            f"the hub and the float model do not have the same weights: {', '.join(sorted(strange)[:3])}",
            "export the hub from this model",
        )
    return found | {name: weight.quantized() for name, weight in placed.weights.items()}, placed.fold


def scheme_of(recipe: Recipe, use: "WeightUse") -> Scheme:
    """The format of a weight that is rounded for itself."""
    return recipe.format.embedding if use.embedding else recipe.format.for_inputs(use.in_channels)


def round_weight(recipe: Recipe, use: "WeightUse") -> QuantizedWeight:
    """One weight, rounded for itself.

    Embedding tables and heads are rounded to nearest in every recipe: in 8 bits there is nothing to gain.
    """
    from quantize.nearest import quantize_weight

    scheme = scheme_of(recipe, use)
    if use.embedding or (recipe.rounding is None and not recipe.calibrated):
        return quantize_weight(use.array(), scheme)
    import torch

    from quantize.grid import fit

    plan = recipe.rounding if isinstance(recipe.rounding, ClipPlan) else ClipPlan()
    return fit(torch.from_numpy(use.array()), scheme, plan).quantized()


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
