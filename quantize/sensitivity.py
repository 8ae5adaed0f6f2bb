"""What each weight costs: KL to the float model when it alone is quantized."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.model import Model
from quantize.calibration import Calibration
from quantize.decoder import (
    LayerCall,
    divergence,
    first_layer_calls,
    linear_modules,
    load_decoder,
    log_probabilities,
    run_layer,
    set_weight,
)
from quantize.grid import fit
from quantize.recipe import ClipPlan
from quantize.scheme import Scheme, parse_scheme

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SensitivityPlan:
    """On how much text the cost is measured, and what the weight is rounded with.

    Attributes:
        sequences: the last ones of the calibration, which GPTQ does not look at.
        tokens: of each, from its beginning.
        clip: how scales are chosen.
    """

    sequences: int = 2
    tokens: int = 128
    clip: ClipPlan = field(default_factory=lambda: ClipPlan(candidates=6))


@dataclass(frozen=True)
class WeightCost:
    """One linear weight.

    Attributes:
        name: of the weight.
        layer: index of its layer.
        projection: which weight of the layer it is, as `self_attn.q_proj`.
        shape: [out, in].
        kl: mean KL(float || model) over positions, nats, when only this weight is quantized.
    """

    name: str
    layer: int
    projection: str
    shape: tuple[int, int]
    kl: float

    @property
    def elements(self) -> int:
        """Numbers in it."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class Sensitivity:
    """The cost of every linear weight, and of every layer as a whole, under one scheme.

    Attributes:
        folder: empty; the figures are the value.
        scheme: they were quantized to.
        weights: in the order of the decoder.
        layers: KL when all weights of that layer are quantized, by index.
    """

    folder: Path
    scheme: str
    weights: tuple[WeightCost, ...]
    layers: tuple[float, ...]

    def ranking(self) -> tuple[WeightCost, ...]:
        """Most KL for each number that would have to stay in 8 bits first."""
        return tuple(sorted(self.weights, key=lambda cost: (-cost.kl / cost.elements, cost.name)))

    def keep(self, percent: int) -> frozenset[str]:
        """The first weights of the ranking that together hold at most `percent` of all numbers.

        A weight that does not fit is passed over for smaller ones that cost less.
        """
        budget = sum(cost.elements for cost in self.weights) * percent // 100
        kept = set()
        for cost in self.ranking():
            if cost.elements <= budget:
                kept.add(cost.name)
                budget -= cost.elements
        return frozenset(kept)


def measure_sensitivity(
    model: Model, calibration: Calibration, scheme_name: str, plan: SensitivityPlan, out: Path, progress: Progress
) -> Sensitivity:
    """Quantize one weight at a time, run the decoder from its layer on, and compare with the float model.

    Args:
        model: the float model.
        calibration: the text.
        scheme_name: what each weight is quantized to, as `quantize.scheme` names it.
        plan: how much text.
        out: an empty folder, left empty.
        progress: called with (runs done, runs in all).
    """
    import torch

    scheme = parse_scheme(scheme_name)
    decoder = load_decoder(model.folder)
    tokens = torch.from_numpy(calibration.load())[-plan.sequences :, : plan.tokens]
    (call,) = first_layer_calls(decoder, tokens, len(tokens))
    reference = log_probabilities(decoder, finish(decoder, call, 0))
    total = len(linear_modules(decoder)) + len(decoder.model.layers)
    costs: list[WeightCost] = []
    layers: list[float] = []
    for index, layer in enumerate(decoder.model.layers):
        pairs = {name: Pair.of(module, scheme, plan.clip) for name, module in linear_modules(layer).items()}
        for short_name, pair in pairs.items():
            kl = cost_when_rounded(decoder, call, index, [pair], reference)
            projection = short_name.removesuffix(".weight")
            name = f"model.layers.{index}.{short_name}"
            costs.append(WeightCost(name, index, projection, pair.shape, kl))
            progress(len(costs) + len(layers), total)
        layers.append(cost_when_rounded(decoder, call, index, list(pairs.values()), reference))
        progress(len(costs) + len(layers), total)
        call = run_layer(layer, call, exact=True)
    return Sensitivity(out, scheme_name, tuple(costs), tuple(layers))


@dataclass(frozen=True)
class Pair:
    """A module, its float weight and its rounded one, both [out, in]."""

    module: Any
    exact: "torch.Tensor"
    rounded: "torch.Tensor"

    @property
    def shape(self) -> tuple[int, int]:
        """[out, in]."""
        return self.exact.shape[0], self.exact.shape[1]

    @classmethod
    def of(cls, module: Any, scheme: Scheme, clip: ClipPlan) -> "Pair":
        """Round the weight that `module` has now."""
        exact = module.weight.detach().clone()
        return cls(module, exact, fit(exact, scheme.for_inputs(exact.shape[1]), clip).weight())


def cost_when_rounded(decoder: Any, call: LayerCall, index: int, pairs: list[Pair], reference: "torch.Tensor") -> float:
    """KL, nats, when the weights of `pairs` in layer `index` are rounded, all others float; leaves them float.

    `reference` are the float decoder's log-probabilities [positions, vocab].
    """
    for pair in pairs:
        set_weight(pair.module, pair.rounded)
    hidden = finish(decoder, call, index)
    for pair in pairs:
        set_weight(pair.module, pair.exact)
    return divergence(reference, log_probabilities(decoder, hidden))


def finish(decoder: Any, call: LayerCall, index: int) -> "torch.Tensor":
    """[sequences, tokens, hidden] after the last norm, from what layer `index` is called with.

    In float32: most weights cost less than what bfloat16 would add of its own.
    """
    import torch

    for layer in decoder.model.layers[index:]:
        call = run_layer(layer, call, exact=True)
    with torch.no_grad():
        hidden: torch.Tensor = decoder.model.norm(call.hidden)
    return hidden
