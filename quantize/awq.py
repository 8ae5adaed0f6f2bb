"""AWQ (Lin et al., arXiv 2306.00978): widen the input channels that matter before rounding, narrow what feeds them.

Channel j of every weight that reads a tensor is multiplied by s_j, and whatever makes the tensor is divided by it: the
weight of the RMSNorm in front, or the output channels of the linear layer in front. In float nothing changes; on the
grid the widened channels keep more of their value. Nothing is added to the graph.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from quantize.decoder import LayerCall, first_layer_calls
from quantize.grid import fit
from quantize.layerwise import as_rows, gram
from quantize.recipe import NEAREST, AwqPlan
from quantize.scheme import Scheme
from quantize.walk import walk

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]

# What makes a tensor inside a layer -> the linear layers that read it, in the order they are computed: `walk.GROUPS`.
JUNCTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    ("self_attn.v_proj", ("self_attn.o_proj",)),
    ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    ("mlp.up_proj", ("mlp.down_proj",)),
)

SMALLEST = 1e-4  # of a channel's mean magnitude: a silent channel is not widened without end


@dataclass(frozen=True)
class Fold:
    """What became of a decoder's float tensors.

    Attributes:
        read: by the name of a linear weight, [in]: what its input channels were multiplied by.
        made: by the name of a linear weight, [out]: what its output channels were divided by.
        vectors: norms and biases that changed, by name, as they are now.
    """

    read: dict[str, "torch.Tensor"] = field(default_factory=dict)
    made: dict[str, "torch.Tensor"] = field(default_factory=dict)
    vectors: dict[str, "torch.Tensor"] = field(default_factory=dict)


@dataclass(frozen=True)
class Inputs:
    """Means over tokens of what a junction's readers get: `magnitude` [in] of |x|, `moment` [in, in] of x x^T."""

    magnitude: "torch.Tensor"
    moment: "torch.Tensor"


def fold_decoder(
    decoder: Any, tokens: "torch.Tensor", schemes: Mapping[str, Scheme], plan: AwqPlan, progress: Progress
) -> Fold:
    """Fold scales into a float decoder, in place, first layer first; it computes what it computed before.

    Args:
        decoder: the float decoder.
        tokens: [sequences, tokens] to look at.
        schemes: format of each linear weight by name.
        plan: how scales are searched.
        progress: called with (junctions done, junctions in all).
    """
    fold = Fold()
    layers = decoder.model.layers
    calls = first_layer_calls(decoder, tokens[: plan.sequences])
    for index, layer in enumerate(layers):
        seen, calls = junction_inputs(layer, calls)
        for place, (source, readers) in enumerate(JUNCTIONS):
            parts = [(layer.get_submodule(name).weight.data, schemes[weight_name(index, name)]) for name in readers]
            scale = best_scale(parts, seen[source], heads_of(layer, source, readers[0]), plan)
            apply_scale(layer, (source, readers), scale, (fold, index))
            progress(index * len(JUNCTIONS) + place + 1, len(layers) * len(JUNCTIONS))
    return fold


def weight_name(layer: int, module: str) -> str:
    """The name of a weight of a decoder layer."""
    return f"model.layers.{layer}.{module}.weight"


def junction_inputs(layer: Any, calls: list[LayerCall]) -> tuple[dict[str, Inputs], list[LayerCall]]:
    """What the readers of each junction get when the layer runs `calls`, by its source; and the next layer's calls."""
    import torch

    walks = [walk(layer, call) for call in calls]
    seen = {}
    for source, _ in JUNCTIONS:
        batches = [as_rows(next(one).hidden) for one in walks]
        rows = sum(map(len, batches))
        magnitude = torch.stack([batch.abs().sum(0) for batch in batches]).sum(0)
        moment = torch.stack([gram(batch) for batch in batches]).sum(0)
        seen[source] = Inputs(magnitude / rows, moment / rows)
    return seen, [LayerCall(next(one).hidden, call.keywords) for one, call in zip(walks, calls, strict=True)]


def heads_of(layer: Any, source: str, reader: str) -> tuple[int, int, int]:
    """(groups, repeats, size) of the channels that are read: query heads of a group read the same value head."""
    made, read = layer.get_submodule(source).weight.shape[0], layer.get_submodule(reader).in_features
    size = layer.self_attn.head_dim if read != made else made
    return made // size, read // made, size


def best_scale(
    parts: "list[tuple[torch.Tensor, Scheme]]", seen: Inputs, heads: tuple[int, int, int], plan: AwqPlan
) -> "torch.Tensor":
    """[in]: the scale of least output error among powers of the inputs' mean magnitude; ones when none is better.

    `parts` are the weights [out, in] that share the input, each with its format; `heads` as `heads_of` gives them.
    Equation 5 of the paper, with the squared error in closed form from the second moments of the input.
    """
    magnitude = seen.magnitude.reshape(heads).mean(1, keepdim=True).expand(heads).flatten()
    magnitude = magnitude.clamp(min=SMALLEST * float(magnitude.mean()))
    scales = [magnitude ** (step / plan.steps) for step in range(plan.steps)]  # the first is all ones
    scales = [scale / (scale.max() * scale.min()).sqrt() for scale in scales]
    errors = [sum(output_error(weight, form, scale, seen.moment) for weight, form in parts) for scale in scales]
    return scales[errors.index(min(errors))]


def output_error(weight: "torch.Tensor", scheme: Scheme, scale: "torch.Tensor", moment: "torch.Tensor") -> float:
    """Mean over tokens of the squared error of all outputs, for weight [out, in] rounded with its inputs scaled."""
    difference = fit(weight * scale, scheme, NEAREST).weight() / scale - weight
    return float(((difference @ moment) * difference).sum())


def apply_scale(
    layer: Any, junction: tuple[str, tuple[str, ...]], scale: "torch.Tensor", into: tuple[Fold, int]
) -> None:
    """Multiply what reads by scale [in], divide what makes by it, and note both in the fold of the layer's number."""
    source, readers = junction
    fold, index = into
    for name in readers:
        module = layer.get_submodule(name)
        module.weight.data.mul_(scale)
        fold.read[weight_name(index, name)] = scale
    made = layer.get_submodule(source)
    groups, repeats, size = heads_of(layer, source, readers[0])
    divisor = scale.reshape(groups, repeats, size)[:, 0].flatten()
    made.weight.data.div_(divisor if made.weight.ndim == 1 else divisor[:, None])
    if made.weight.ndim == 1:
        fold.vectors[weight_name(index, source)] = made.weight.data
        return
    fold.made[weight_name(index, source)] = divisor
    if made.bias is not None:
        made.bias.data.div_(divisor)
        fold.vectors[f"model.layers.{index}.{source}.bias"] = made.bias.data
