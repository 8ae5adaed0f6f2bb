"""Quantized hub and calibration tokens -> the range of every linear layer's input and output."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from quantize.calibration import Calibration
from quantize.quantizer import QuantizedModel
from quantize.traced_hub import TracedHub
from targets.errors import StageFailed

FILE = "ranges.json"

# Sequences of the calibration text that are run; the range of a uint16 has room for what a few more would add.
SEQUENCES = 16

# Of what was seen: text that was not seen reaches farther, and a uint16 has levels to spare.
MARGIN = 1.25

Range = tuple[float, float]
Progress = Callable[[int, int], None]


class LinearRanges(NamedTuple):
    """Smallest and largest number that a linear layer reads, and that it gives."""

    inputs: Range
    outputs: Range


@dataclass(frozen=True)
class ActivationRanges:
    """Ranges of the decoder's linear layers.

    Attributes:
        folder: holds `ranges.json`: by the weight's name, [[low, high] of the input, [low, high] of the output].
        calibration: digest of the tokens that were run.
        tokens: how many.
    """

    folder: Path
    calibration: str
    tokens: int

    def load(self) -> dict[str, LinearRanges]:
        """By the weight's name."""
        stored = json.loads((self.folder / FILE).read_text(encoding="utf-8"))
        return {
            name: LinearRanges((float(inputs[0]), float(inputs[1])), (float(outputs[0]), float(outputs[1])))
            for name, (inputs, outputs) in stored.items()
        }


def measure_ranges(
    quantized: QuantizedModel, calibration: Calibration, out: Path, progress: Progress
) -> ActivationRanges:
    """Run calibration text through the quantized hub in float32 and write what its linear layers read and give.

    The head is left out: it stays in floating point.

    Raises:
        StageFailed: a layer's numbers are not finite.
    """
    hub = TracedHub(quantized.graph, quantized.facts)
    layers = {name: both for name, both in linear_layers(hub) if name.startswith("model.layers.")}
    wanted = sorted({tensor for both in layers.values() for tensor in both})
    low: dict[str, float] = dict.fromkeys(wanted, 0.0)
    high: dict[str, float] = dict.fromkeys(wanted, 0.0)
    sequences = calibration.load()[:SEQUENCES]
    for done, tokens in enumerate(sequences, 1):
        _, inside = hub.run(tokens, wanted)
        for tensor, values in inside.items():
            low[tensor] = min(low[tensor], float(values.min()))
            high[tensor] = max(high[tensor], float(values.max()))
        progress(done, len(sequences))
    infinite = [tensor for tensor in wanted if not np.isfinite([low[tensor], high[tensor]]).all()]
    if infinite:
        raise StageFailed(f"{infinite[0]} is not finite on the calibration text", "calibrate on other text")
    stored = {name: [[MARGIN * low[tensor], MARGIN * high[tensor]] for tensor in both] for name, both in layers.items()}
    (out / FILE).write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    return ActivationRanges(out, calibration.digest, int(sequences.size))


def linear_layers(hub: TracedHub) -> Iterator[tuple[str, tuple[str, str]]]:
    """Name of each linear weight of a hub, and the names of its layer's input and output tensors."""
    for node in hub.proto.graph.node:
        if node.op_type == "MatMul" and node.input[1].endswith(".transposed"):
            yield node.input[1].removesuffix(".transposed"), (node.input[0], node.output[0])
