"""GPTQ over a whole decoder, first layer first: each weight is calibrated on what the quantized layers before it give.

Before a weight is rounded it is moved to where, on those inputs, it comes nearest to what the float decoder computes
there (least squares, as in GPTAQ, arXiv 2504.02692); a weight whose output is added to the residual stream makes up
for the stream's own error too. So the layers that follow mend what those before them broke.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantize.decoder import LayerCall, first_layer_calls, linear_modules, set_weight
from quantize.gptq import gptq
from quantize.grid import GridWeight, fit
from quantize.recipe import GptqPlan
from quantize.scheme import Scheme
from quantize.walk import GROUPS, Stop, walk

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]

# Input channels from which on half of a symmetric product is worth four smaller ones.
GRAM_BLOCK = 384


@dataclass(frozen=True)
class Moments:
    """Means over tokens for one group of weights; x is an input in the quantized decoder, f the same in the float one.

    Attributes:
        own: [in, in], x x^T.
        cross: [in, in], f x^T.
        drift: [out, in], (float residual - quantized residual) x^T; None where the output joins no residual.
    """

    own: "torch.Tensor"
    cross: "torch.Tensor"
    drift: "torch.Tensor | None"


def round_layers(
    pair: tuple[Any, Any],
    tokens: "torch.Tensor",
    schemes: Mapping[str, Scheme],
    plan: GptqPlan,
    progress: Progress,
) -> dict[str, GridWeight]:
    """Quantize every linear weight of a decoder in place.

    Args:
        pair: the float decoder, and the one to quantize: the same with its embedding quantized already.
        tokens: [sequences, tokens] to calibrate on.
        schemes: format of each weight by name.
        plan: of GPTQ.
        progress: called with (weights done, weights in all).
    """
    found: dict[str, GridWeight] = {}
    exact, rounded = pair
    float_calls, calls = (first_layer_calls(decoder, tokens[: plan.sequences]) for decoder in pair)
    for index, (float_layer, layer) in enumerate(zip(exact.model.layers, rounded.model.layers, strict=True)):
        modules = linear_modules(layer)
        float_walks, walks = [walk(float_layer, call) for call in float_calls], [walk(layer, call) for call in calls]
        for names in GROUPS:
            moments = measure_moments(map(next, float_walks), map(next, walks))
            for short_name in names:
                name, module = f"model.layers.{index}.{short_name}.weight", modules[f"{short_name}.weight"]
                found[name] = round_weight(module.weight.data, schemes[name], moments, plan)
                set_weight(module, found[name].weight())
                progress(len(found), len(schemes))
        float_calls = [LayerCall(next(one).hidden, call.keywords) for one, call in zip(float_walks, calls, strict=True)]
        calls = [LayerCall(next(one).hidden, call.keywords) for one, call in zip(walks, calls, strict=True)]
    return found


def round_weight(weight: "torch.Tensor", scheme: Scheme, moments: Moments, plan: GptqPlan) -> GridWeight:
    """Move weight [out, in] to where it mends the most, then round it."""
    moved = mend(weight, moments, plan.mending) if plan.mending else weight
    start = fit(moved, scheme, plan.clip, moments.own.diagonal())
    return gptq(moved, start, moments.own, plan)


def mend(weight: "torch.Tensor", moments: Moments, damping: float) -> "torch.Tensor":
    """V that minimises the mean of |target - V x|^2 + damping * mean(diag own) * |V - weight|^2, for weight [out, in].

    The target of a token is `weight` f, plus the residual's drift where there is one.
    """
    import torch

    ridge = damping * moments.own.diagonal().mean().double() * torch.eye(weight.shape[1], dtype=torch.float64)
    goal = weight.double() @ (moments.cross.double() + ridge)
    if moments.drift is not None:
        goal = goal + moments.drift.double()
    moved: torch.Tensor = torch.linalg.solve(moments.own.double() + ridge, goal, left=False)
    return moved.float()


def measure_moments(floats: Iterable[Stop], own: Iterable[Stop]) -> Moments:
    """Average what a group is called with, batch after batch, in the float layer and in the one being quantized."""
    sums: list[torch.Tensor] = []
    rows = 0
    for exact, found in zip(floats, own, strict=True):
        inputs = as_rows(found.hidden)
        parts = [gram(inputs), as_rows(exact.hidden).T @ inputs]
        if found.residual is not None and exact.residual is not None:
            parts.append((as_rows(exact.residual) - as_rows(found.residual)).T @ inputs)
        sums = [total.add_(part) for total, part in zip(sums, parts, strict=True)] if sums else parts
        rows += len(inputs)
    means = [total / rows for total in sums]
    return Moments(means[0], means[1], means[2] if len(means) > 2 else None)


def as_rows(hidden: "torch.Tensor") -> "torch.Tensor":
    """[.., in] as [rows, in] float32."""
    return hidden.flatten(0, -2).float()


def gram(rows: "torch.Tensor") -> "torch.Tensor":
    """x^T x of x [rows, in]; what the symmetry gives is copied, not computed."""
    import torch

    inputs = rows.shape[1]
    if inputs < GRAM_BLOCK:
        return rows.T @ rows
    left, right = rows[:, : inputs // 2], rows[:, inputs // 2 :]
    corner = left.T @ right
    return torch.cat([torch.cat([gram(left), corner], 1), torch.cat([corner.T, gram(right)], 1)])
