"""Train codes and scales together until the quantized decoder predicts what the float one predicts.

The loss is KL(float || quantized) of the next token, over text the float model wrote. Forward, every weight is on its
grid; backward, rounding counts as the identity (straight-through). A weight moves in units of its codes, so one rate
fits all of them, and no scale can move a code: both are free to settle.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from quantize.decoder import linear_modules
from quantize.grid import GridWeight, code_range, half_scales
from quantize.recipe import DistillPlan

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]

# How near to the edge of the code range a position may come: rounding must not leave it.
MARGIN = 0.49
# Positions whose logits are held at once: 256 of a vocabulary of 150,000 are 154 MB.
CHUNK = 256

WARM_UP = 5
LAST_RATE = 0.05
BETAS = (0.9, 0.95)
EPSILON = 1e-12


@dataclass(frozen=True)
class Text:
    """Tokens and what the float model makes of them.

    Attributes:
        tokens: [sequences, tokens].
        hidden: [sequences, tokens, hidden], the float model's, after its last norm.
        head: [vocab, hidden], which makes logits of them.
    """

    tokens: "torch.Tensor"
    hidden: "torch.Tensor"
    head: "torch.Tensor"


@dataclass(frozen=True)
class Trained:
    """A weight being trained.

    Attributes:
        start: where it began.
        module: whose weight it is.
        position: as `GridWeight.position`, a parameter.
        stretch: [out, groups, 1], a parameter: the scale is `start.scale * (1 + stretch)`.
        low: the least position that still rounds into the code range.
        high: the largest.
    """

    start: GridWeight
    module: Any
    position: "torch.Tensor"
    stretch: "torch.Tensor"
    low: "torch.Tensor"
    high: "torch.Tensor"

    def now(self) -> GridWeight:
        """Where it is."""
        scale = self.start.scale * (1 + self.stretch.detach())
        return replace(self.start, position=self.position.detach(), scale=scale)


def distill(
    model: Any,
    start: Mapping[str, GridWeight],
    text: Text,
    plan: DistillPlan,
    progress: Progress,
) -> dict[str, GridWeight]:
    """Train every linear weight of `model`, which is used up.

    Args:
        model: the decoder with its embedding quantized; its linear weights are overwritten.
        start: where each linear weight begins, by name.
        text: what is learned from.
        plan: steps and rates.
        progress: called with (steps done, steps in all).
    """
    import torch

    weights = {name: trained(start[name], module) for name, module in linear_modules(model).items()}
    optimizers = [
        torch.optim.Adam([w.position for w in weights.values()], plan.code_rate, BETAS, EPSILON, fused=True),
        torch.optim.Adam([w.stretch for w in weights.values()], plan.scale_rate, BETAS, EPSILON, fused=True),
    ]
    order = drawing_order(len(text.tokens), plan)
    for step in range(plan.steps):
        for optimizer, rate in zip(optimizers, (plan.code_rate, plan.scale_rate), strict=True):
            optimizer.param_groups[0]["lr"] = rate * schedule(step, plan.steps)
        for weight in weights.values():
            weight.module.weight.data.copy_(weight.now().weight())
        drawn = order[step * plan.batch : (step + 1) * plan.batch]
        backward(model, text.tokens[drawn], text.hidden[drawn], text.head)
        for weight in weights.values():
            take_gradient(weight)
        for optimizer in optimizers:
            optimizer.step()
        for weight in weights.values():
            keep_in_range(weight)
        progress(step + 1, plan.steps)
    return {name: settled(weight) for name, weight in weights.items()}


def trained(start: GridWeight, module: Any) -> Trained:
    """Make a weight's positions and scales parameters, and ask autograd for the gradient of what they give."""
    import torch

    lowest, highest = code_range(start.scheme)
    low, high = lowest - start.zero - MARGIN, highest - start.zero + MARGIN
    position = torch.nn.Parameter(torch.clamp(start.position, low, high))
    module.weight.requires_grad_(True)
    return Trained(start, module, position, torch.nn.Parameter(torch.zeros_like(start.scale)), low, high)


def drawing_order(sequences: int, plan: DistillPlan) -> "torch.Tensor":
    """The sequence of every draw: each sequence once, in a seeded order, before any comes again."""
    import torch

    generator = torch.Generator().manual_seed(plan.seed)
    rounds = -(-plan.steps * plan.batch // sequences)
    return torch.cat([torch.randperm(sequences, generator=generator) for _ in range(rounds)])


def schedule(step: int, steps: int) -> float:
    """Share of the full rate: a short climb, then a half cosine down to `LAST_RATE`."""
    fall = LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * step / steps)) / 2
    return min(1.0, (step + 1) / WARM_UP) * fall


def backward(model: Any, tokens: "torch.Tensor", reference: "torch.Tensor", head: "torch.Tensor") -> float:
    """Add the gradient of the mean KL to every trainable weight; returns that KL in nats.

    The gradient of KL(p || softmax(z)) by z is softmax(z) - p. It is taken chunk by chunk, since logits are the
    largest tensor there is.
    """
    import torch
    from torch.nn import functional

    hidden = model.model(tokens, use_cache=False)[0]
    rows, expected = hidden.detach().flatten(0, 1), reference.flatten(0, 1)
    own = model.get_output_embeddings().weight
    gradient, total = torch.empty_like(rows), 0.0
    with torch.no_grad():
        for begin in range(0, len(rows), CHUNK):
            part = slice(begin, begin + CHUNK)
            goal = functional.linear(expected[part], head).float().log_softmax(-1)
            found = functional.linear(rows[part], own).float().log_softmax(-1)
            probability = goal.exp()
            total += float((probability * (goal - found)).sum())
            gradient[part] = (found.exp_().sub_(probability).div_(len(rows))).to(own.dtype) @ own
    hidden.backward(gradient.view_as(hidden))
    return total / len(rows)


def take_gradient(weight: Trained) -> None:
    """Hand the gradient of a module's weight on to its positions and scales.

    The size of a scale is left out of the positions' gradient: Adam divides it out again.
    """
    import torch

    with torch.no_grad():
        gradient = weight.module.weight.grad.float().view_as(weight.position)
        weight.module.weight.grad = None
        codes = weight.now().codes()
        weight.stretch.grad = (gradient * codes).sum(-1, keepdim=True) * weight.start.scale
        weight.position.grad = gradient.mul_(weight.start.scale.sign())


def keep_in_range(weight: Trained) -> None:
    """Pull positions back that left the code range, where rounding has no gradient to bring them back."""
    import torch

    weight.position.grad = None
    torch.clamp(weight.position.data, weight.low, weight.high, out=weight.position.data)


def settled(weight: Trained) -> GridWeight:
    """The end of training, with scales that float16 holds."""
    end = weight.now()
    return replace(end, scale=half_scales(end.scale))
