"""GPTQ over a whole decoder, first layer first: each weight is calibrated on what the quantized layers before it give.

Before a weight is rounded it is moved to where, on those inputs, it comes nearest to what the float decoder computes
there (least squares, as in GPTAQ, arXiv 2504.02692); a weight whose output is added to the residual stream makes up
for the stream's own error too. So the layers that follow mend what those before them broke.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantize.decoder import LayerCall, capture, first_layer_calls, linear_modules, run_layer, set_weight
from quantize.gptq import gptq
from quantize.grid import GridWeight, fit
from quantize.recipe import GptqPlan
from quantize.scheme import Scheme

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]

# What each group of weights that share an input is called in every decoder we build, in the order they are computed;
# and the module whose input is the residual stream that the group's output is added to.
GROUPS: tuple[tuple[tuple[str, ...], str | None], ...] = (
    (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), None),
    (("self_attn.o_proj",), "input_layernorm"),
    (("mlp.gate_proj", "mlp.up_proj"), None),
    (("mlp.down_proj",), "post_attention_layernorm"),
)


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
        floats = float_inputs(float_layer, float_calls)
        for names, residual in GROUPS:
            moments = measure_moments(layer, calls, floats, names[0], residual)
            for short_name in names:
                name, module = f"model.layers.{index}.{short_name}.weight", modules[f"{short_name}.weight"]
                found[name] = round_weight(module.weight.data, schemes[name], moments, plan)
                set_weight(module, found[name].weight())
                progress(len(found), len(schemes))
        float_calls = [run_layer(float_layer, call) for call in float_calls]
        calls = [run_layer(layer, call) for call in calls]
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


def float_inputs(layer: Any, calls: list[LayerCall]) -> "list[dict[str, torch.Tensor]]":
    """For each call, what the first module of every group and the residuals are called with in the float layer."""
    watched = [names[0] for names, _ in GROUPS] + [residual for _, residual in GROUPS if residual is not None]
    return [capture(layer, call, watched) for call in calls]


def measure_moments(
    layer: Any, calls: list[LayerCall], floats: "list[dict[str, torch.Tensor]]", name: str, residual: str | None
) -> Moments:
    """Run the layer being quantized as far as the module `name`, and average what it gets; `floats` as above."""
    sums: list[torch.Tensor] = []
    rows = 0
    for call, exact in zip(calls, floats, strict=True):
        own = capture(layer, call, [name] if residual is None else [residual, name])
        parts = [own[name].T @ own[name], exact[name].T @ own[name]]
        if residual is not None:
            parts.append((exact[residual] - own[residual]).T @ own[name])
        sums = [total.add_(part) for total, part in zip(sums, parts, strict=True)] if sums else parts
        rows += len(own[name])
    means = [total / rows for total in sums]
    return Moments(means[0], means[1], means[2] if residual is not None else None)
