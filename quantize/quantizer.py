"""Hub -> Quantized: round the weights to a scheme's grid, once, for every runtime."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from export.hub import GRAPH, WEIGHTS, OnnxModel, copy_side_files
from export.model import ModelFacts
from quantize.scheme import parse_scheme
from quantize.weight import digest_weights
from targets.errors import StageFailed
from targets.legality import CHANNEL_WISE

# Offered in place of one that does not divide a weight's input channels.
GROUP_SIZES = (128, 64, 32)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class QuantizedModel:
    """The hub with quantized weights.

    Attributes:
        folder: `model.onnx`, its weights, the configuration and the tokenizer.
        facts: the architecture and its provenance.
        scheme: name of the scheme.
        counts: number of weights by code width (`int4`, `int8`); never all zero.
        weights: digest of each quantized weight by name, as `QuantizedWeight.digest` defines it.
        weights_digest: one digest over `weights`.
        weight_bytes: size of all stored weights.
    """

    folder: Path
    facts: ModelFacts
    scheme: str
    counts: dict[str, int]
    weights: dict[str, str]
    weights_digest: str
    weight_bytes: int

    @property
    def graph(self) -> Path:
        """The ONNX file."""
        return self.folder / GRAPH


def quantize_model(hub: OnnxModel, scheme_name: str, out: Path, progress: Progress) -> QuantizedModel:
    """Quantize every linear weight, the embedding table and the head of `hub`.

    Args:
        hub: the float model; not changed.
        scheme_name: a name of the grammar in `quantize.scheme`.
        out: an empty folder.
        progress: called with (weights done, weights in all).

    Raises:
        StageFailed: nothing was quantized, or a weight does not fit the scheme's group size.
    """
    import onnx_ir as ir

    from quantize.hub_weights import find_weights, replace_weight
    from quantize.nncf_backend import quantize_weight

    scheme = parse_scheme(scheme_name)
    model = ir.load(hub.graph)
    uses = find_weights(model, hub.facts.vocab_size)
    digests: dict[str, str] = {}
    counts: dict[str, int] = {}
    for use in uses:
        how = scheme.embedding if use.embedding else scheme
        refuse_ragged_groups(use.name, use.in_channels, how.group_size)
        weight = quantize_weight(use.array(), how)
        replace_weight(model, use, weight)
        digests[use.name] = weight.digest()
        counts[f"int{weight.bits}"] = counts.get(f"int{weight.bits}", 0) + 1
        progress(len(digests), len(uses))
    if not counts.get(scheme.precision):
        raise StageFailed(
            f"{scheme_name} quantized no weight of the hub", "report this model: its weights were not found"
        )
    ir.save(model, out / GRAPH, external_data=WEIGHTS)
    copy_side_files(hub.folder, out)
    size = (out / WEIGHTS).stat().st_size
    return QuantizedModel(out, hub.facts, scheme_name, counts, digests, digest_weights(digests), size)


def refuse_ragged_groups(name: str, in_channels: int, group_size: int) -> None:
    """Refuse a group size that does not divide a weight's input channels.

    Raises:
        StageFailed: names the weight and what divides it.
    """
    if group_size != CHANNEL_WISE and in_channels % group_size:
        fitting = [f"g{size}" for size in GROUP_SIZES if in_channels % size == 0]
        raise StageFailed(
            f"{name} has {in_channels} input channels, which groups of {group_size} do not divide",
            f"choose a scheme that ends in {' or '.join((*fitting, 'cw'))}",
        )
