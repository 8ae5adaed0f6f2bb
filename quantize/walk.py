"""Walk through a decoder layer, group of weights after group, so that each may be replaced before it is used.

Nothing is computed twice: what a group gives is computed when the next one is reached, with the weights it has by then.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantize.decoder import LayerCall, inference, input_of

if TYPE_CHECKING:
    import torch

# The weights of a layer that share an input, in the order they are computed in every decoder we build.
GROUPS: tuple[tuple[str, ...], ...] = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)


@dataclass(frozen=True)
class Stop:
    """Where a walk is.

    Attributes:
        hidden: [.., in], what the next group is called with; at the end what leaves the layer.
        residual: [.., hidden], what the group's output will be added to; None where it is added to nothing.
    """

    hidden: "torch.Tensor"
    residual: "torch.Tensor | None" = None


def walk(layer: Any, call: LayerCall) -> Iterator[Stop]:
    """A stop before each group of `GROUPS`, and one behind the layer.

    Raises:
        StageFailed: the layer does not call what a decoder layer calls.
    """
    with inference():
        inputs = layer.input_layernorm(call.hidden)
    yield Stop(inputs)
    with inference():
        mixed = input_of(layer.self_attn, "o_proj", hidden_states=inputs, **call.keywords)
    yield Stop(mixed, call.hidden)
    with inference():
        stream = call.hidden + layer.self_attn.o_proj(mixed)
        inputs = layer.post_attention_layernorm(stream)
    yield Stop(inputs)
    with inference():
        inner = input_of(layer.mlp, "down_proj", inputs)
    yield Stop(inner, stream)
    with inference():
        after = stream + layer.mlp.down_proj(inner)
    yield Stop(after)
