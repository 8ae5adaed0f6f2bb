"""The float decoder in torch, for methods that look at more than one weight."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantize.precision import fast_type
from targets.errors import StageFailed

if TYPE_CHECKING:
    import torch

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


class _Seen(Exception):
    """Ends a forward pass that was only run to see what some modules are called with."""


@dataclass(frozen=True)
class LayerCall:
    """What a decoder layer is called with beside the hidden states: positions, mask, no cache."""

    hidden: "torch.Tensor"
    keywords: dict[str, Any]


def load_decoder(folder: Path) -> Any:
    """The Hugging Face model in `folder`, float32, nothing trainable."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True, trust_remote_code=False
    )
    return model.eval().requires_grad_(False)


def linear_modules(model: Any) -> dict[str, Any]:
    """The linear modules of the decoder layers by the name of their weight, in the order they are computed."""
    import torch

    return {
        f"{name}.weight": module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and f"{name}.weight" != HEAD
    }


def table_modules(model: Any) -> dict[str, Any]:
    """The embedding and, when it is not tied to it, the head, by the name of their weight."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head.weight is embedding.weight
    return {EMBEDDING: embedding} if tied else {EMBEDDING: embedding, HEAD: head}


def set_weight(module: Any, weight: "torch.Tensor") -> None:
    """Give a module other numbers of the same shape; modules tied to it see them too."""
    module.weight.data.copy_(weight)


def hidden_states(model: Any, tokens: "torch.Tensor", batch: int = 8) -> "torch.Tensor":
    """[sequences, tokens, hidden]: what the head multiplies, for tokens [sequences, tokens]."""
    import torch

    with torch.no_grad():
        return torch.cat([model.model(part, use_cache=False)[0] for part in torch.split(tokens, batch)])


def first_layer_calls(model: Any, tokens: "torch.Tensor", batch: int = 8) -> list[LayerCall]:
    """What the first layer is called with for each `batch` of tokens [sequences, tokens]."""
    import torch

    calls: list[LayerCall] = []

    def stop(module: Any, positional: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        keywords = dict(keywords)
        hidden = positional[0] if positional else keywords.pop("hidden_states")
        calls.append(LayerCall(hidden, keywords))
        raise _Seen

    hook = model.model.layers[0].register_forward_pre_hook(stop, with_kwargs=True)
    try:
        for part in torch.split(tokens, batch):
            with torch.no_grad():
                try:
                    model.model(part, use_cache=False)
                except _Seen:
                    continue
    finally:
        hook.remove()
    return calls


@contextmanager
def inference(exact: bool = False) -> Iterator[None]:
    """No gradients; matrices are multiplied in the fast type unless `exact`."""
    import torch

    fast = torch.float32 if exact else fast_type()
    with torch.no_grad(), torch.autocast("cpu", fast, enabled=fast != torch.float32):
        yield


def run_layer(layer: Any, call: LayerCall, exact: bool = False) -> LayerCall:
    """The call of the layer after `layer`; matrices are multiplied in the fast type unless `exact`."""
    with inference(exact):
        result = layer(call.hidden, **call.keywords)
    return LayerCall(result[0] if isinstance(result, tuple) else result, call.keywords)


def input_of(module: Any, name: str, *arguments: Any, **keywords: Any) -> "torch.Tensor":
    """What the submodule `name` is called with when `module` is; the module runs no further."""
    seen: list[Any] = []

    def keep(_: Any, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0])
        raise _Seen

    hook = module.get_submodule(name).register_forward_pre_hook(keep)
    try:
        module(*arguments, **keywords)
    except _Seen:
        found: torch.Tensor = seen[0]
        return found
    finally:
        hook.remove()
    raise StageFailed(f"{type(module).__name__} does not call {name}", "report this model")


def log_probabilities(model: Any, hidden: "torch.Tensor") -> "torch.Tensor":
    """[rows, vocab]: of the next token, from hidden states [.., hidden] after the last norm."""
    import torch
    from torch.nn import functional

    with torch.no_grad():
        return functional.linear(hidden.flatten(0, -2), model.get_output_embeddings().weight).log_softmax(-1)


def divergence(expected: "torch.Tensor", found: "torch.Tensor") -> float:
    """Mean KL(expected || found) over rows, nats, of log-probabilities [rows, vocab]."""
    from torch.nn import functional

    return float(functional.kl_div(found, expected, reduction="sum", log_target=True)) / len(expected)
