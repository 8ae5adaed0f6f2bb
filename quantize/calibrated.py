"""Carry out a recipe on the float decoder in torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from export.model import Model
from quantize.awq import JUNCTIONS, Fold, fold_decoder
from quantize.calibration import Calibration
from quantize.decoder import hidden_states, linear_modules, load_decoder, set_weight, table_modules
from quantize.distill import Text, distill
from quantize.grid import GridWeight, fit
from quantize.layerwise import round_layers
from quantize.precision import fast_type
from quantize.recipe import NEAREST, ClipPlan, GptqPlan, Recipe, ScalePlan, recipe_name
from quantize.scale_estimation import estimate_layers
from quantize.scheme import Scheme
from quantize.sensitivity import Sensitivity
from quantize.weight import QuantizedWeight
from targets.errors import UsageError

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CalibratedInputs:
    """What a calibrated recipe looks at beside the hub.

    Attributes:
        model: the float model the hub was exported from.
        calibration: tokens to calibrate on.
        sensitivity: what each weight costs; needed by a recipe that keeps some in 8 bits.
    """

    model: Model
    calibration: Calibration
    sensitivity: Sensitivity | None = None


@dataclass(frozen=True)
class Placed:
    """A decoder's linear weights by name, on their grids, and what was folded into them before."""

    weights: dict[str, GridWeight]
    fold: Fold


def quantize_decoder(
    recipe: Recipe, inputs: CalibratedInputs, tables: Mapping[str, QuantizedWeight], progress: Progress
) -> Placed:
    """Put every linear weight of the decoder layers on its grid.

    Args:
        recipe: what to do.
        inputs: the float model and the text.
        tables: the embedding table and the head as they will be stored: the layers are calibrated beside those.
        progress: called with (work done, work in all): folds, then weights rounded, then steps trained.

    Raises:
        UsageError: the recipe keeps weights, and there is no sensitivity to choose them by.
    """
    import torch

    tokens = torch.from_numpy(inputs.calibration.load())
    exact, decoder = load_decoder(inputs.model.folder), load_decoder(inputs.model.folder)
    text = Text(tokens, *predictions(exact, tokens)) if recipe.tuning else None
    schemes = weight_schemes(decoder, recipe, inputs.sensitivity)
    folds = len(JUNCTIONS) * len(exact.model.layers) if recipe.fold else 0
    total = folds + len(schemes) + (recipe.tuning.steps if recipe.tuning else 0)
    fold = Fold()
    if recipe.fold is not None:
        fold = fold_decoder(exact, tokens, schemes, recipe.fold, lambda done, _: progress(done, total))
        decoder.load_state_dict(exact.state_dict())
    set_tables(decoder, tables)
    found = first_rounding((exact, decoder), tokens, schemes, recipe, lambda done, _: progress(folds + done, total))
    if text is None or recipe.tuning is None:
        return Placed(found, fold)
    decoder, before = decoder.to(fast_type()), folds + len(schemes)
    return Placed(distill(decoder, found, text, recipe.tuning, lambda done, _: progress(before + done, total)), fold)


def predictions(decoder: Any, tokens: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """What the float decoder says of tokens [sequences, tokens]: hidden states [sequences, tokens, hidden], and the
    head [vocab, hidden] that makes logits of them, both in the fast type.
    """
    import torch

    fast = fast_type()
    with torch.autocast("cpu", fast, enabled=fast != torch.float32):
        hidden = hidden_states(decoder, tokens).to(fast)
    return hidden, decoder.get_output_embeddings().weight.detach().to(fast, copy=True)


def set_tables(decoder: Any, tables: Mapping[str, QuantizedWeight]) -> None:
    """Give the decoder the embedding table, and the head when it has one of its own, as they will be stored."""
    import torch

    for name, module in table_modules(decoder).items():
        set_weight(module, torch.from_numpy(tables[name].dequantize()))


def weight_schemes(decoder: Any, recipe: Recipe, sensitivity: Sensitivity | None) -> dict[str, Scheme]:
    """The format of every linear weight by name, in the order of the decoder.

    Raises:
        UsageError: as `quantize_decoder`.
    """
    kept: frozenset[str] = frozenset()
    if recipe.keep:
        if sensitivity is None:
            raise UsageError(
                f"{recipe_name(recipe)} keeps the most sensitive weights, and their sensitivity was not measured",
                "measure the sensitivity first",
            )
        kept = sensitivity.keep(recipe.keep)
    return {
        name: recipe.kept_scheme if name in kept else recipe.format.for_inputs(module.in_features)
        for name, module in linear_modules(decoder).items()
    }


def first_rounding(
    pair: tuple[Any, Any], tokens: "torch.Tensor", schemes: Mapping[str, Scheme], recipe: Recipe, progress: Progress
) -> dict[str, GridWeight]:
    """Round every linear weight of a decoder by the recipe's rounding.

    Without one a training starts from `clip`, as does a recipe that keeps weights; a fold alone rounds to nearest.

    `pair` is the float decoder and the one to quantize, as `round_layers` takes them.
    """
    if isinstance(recipe.rounding, GptqPlan):
        return round_layers(pair, tokens, schemes, recipe.rounding, progress)
    if isinstance(recipe.rounding, ScalePlan):
        return estimate_layers(pair[0], tokens, schemes, recipe.rounding, progress)
    nearest = recipe.fold is not None and not recipe.keep and recipe.tuning is None
    plan = recipe.rounding or (NEAREST if nearest else ClipPlan())
    found: dict[str, GridWeight] = {}
    for name, module in linear_modules(pair[1]).items():
        found[name] = fit(module.weight.data, schemes[name], plan)
        progress(len(found), len(schemes))
    return found
