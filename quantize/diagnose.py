"""Which weight of a quantized hub is to blame: weight by weight on the float hub's own activations.

An error travels: everything after a broken weight looks broken. So each quantized weight multiplies what the float hub
gives it, and its output is compared with the float one's; then the worst are put back to float one at a time, and what
the KL of the whole falls to shows how much each is to blame for.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from export.hub import OnnxModel, load_hub
from quantize.folds import READ, folded, read_factors
from quantize.quantizer import QuantizedModel
from quantize.traced_hub import TracedHub

if TYPE_CHECKING:
    from quantize.weight import QuantizedWeight

Progress = Callable[[int, int], None]

# Rounding to four bits, channel-wise, changes outputs by a tenth to a third; a weight is broken when it is this far off
# and this many times farther than the median weight.
BROKEN_ERROR = 0.5
BROKEN_TIMES = 3.0

DIAGNOSIS = "diagnosis.json"
POSITIONS = 256  # looked at in a build
ROWS = 32  # positions compared at a time: in float64 all of them would take several times the logits' memory
RESTORED = 5  # weights put back to float in a build, one at a time


@dataclass(frozen=True)
class WeightError:
    """One quantized weight against the float one.

    Attributes:
        name: of the weight.
        error: norm of the difference of its outputs over the norm of the float outputs, on the float hub's inputs; for
            an embedding table or a head, of the weights themselves.
        kl_restored: KL of the whole, nats, with this weight put back to float; None when it was not tried.
    """

    name: str
    error: float
    kl_restored: float | None = None


@dataclass(frozen=True)
class Diagnosis:
    """A quantized hub against the float one.

    Attributes:
        kl: mean KL(float || quantized) over the positions looked at, nats.
        weights: every quantized weight, largest error first.
        broken: names of those whose error is no rounding error.
    """

    kl: float
    weights: tuple[WeightError, ...]
    broken: tuple[str, ...]

    @property
    def guilty(self) -> WeightError:
        """The most broken weight; when none is, the one whose return to float would help most, if that was tried."""
        if self.broken:
            return self.weights[0]
        tried = [weight for weight in self.weights if weight.kl_restored is not None]
        return min(tried, key=lambda weight: weight.kl_restored or 0.0, default=self.weights[0])


@dataclass(frozen=True)
class Diagnosed:
    """A diagnosis as a stage's value.

    Attributes:
        folder: `diagnosis.json`, every weight.
        recipe: of the quantized hub.
        positions: looked at.
        diagnosis: of the hub, without the weights that nothing speaks against.
    """

    folder: Path
    recipe: str
    positions: int
    diagnosis: Diagnosis


def write_diagnosis(
    hub: OnnxModel, quantized: QuantizedModel, tokens: NDArray[np.int64], out: Path, progress: Progress
) -> Diagnosed:
    """Diagnose on the first of tokens [n], write all of it to the empty folder `out`, and return what a report says."""
    tokens = tokens[:POSITIONS]
    found = diagnose(hub, quantized, tokens, RESTORED, progress)
    text = json.dumps(dataclasses.asdict(found), indent=1, sort_keys=True)
    (out / DIAGNOSIS).write_text(text + "\n", encoding="utf-8")
    named = [weight for weight in found.weights if weight.kl_restored is not None or weight.name in found.broken]
    return Diagnosed(out, quantized.recipe, len(tokens), dataclasses.replace(found, weights=tuple(named)))


def diagnose(
    hub: OnnxModel, quantized: QuantizedModel, tokens: NDArray[np.int64], restore: int, progress: Progress
) -> Diagnosis:
    """Compare weight by weight.

    Args:
        hub: the float hub.
        quantized: made from it.
        tokens: [n], one sequence to run.
        restore: how many of the worst weights are put back to float, one at a time.
        progress: called with (steps done, steps in all).
    """
    import onnx_ir as ir

    from quantize.hub_weights import find_weights, quantized_weights

    model = load_hub(hub)
    factors = read_factors(quantized.folder)
    uses = {use.name: use for use in find_weights(model, hub.facts.vocab_size)}

    def float_weight(name: str) -> NDArray[np.float32]:
        return folded(uses[name].array(), name, factors)  # read when needed: all of them are the float model

    reads = matmul_inputs(model)
    logits, inputs = TracedHub(hub.graph, hub.facts, hub.weights).run(tokens, sorted(set(reads.values())))
    progress(1, 2 + restore)
    errors = []
    for name, _, weight in quantized_weights(ir.load(quantized.graph)):
        seen = folded_inputs(name, reads, inputs, factors)
        errors.append(WeightError(name, output_error(float_weight(name), weight, seen)))
    errors.sort(key=lambda weight: (-weight.error, weight.name))
    del inputs
    quantized_hub = TracedHub(quantized.graph, hub.facts)
    kl = mean_kl(logits, quantized_hub.run(tokens)[0])
    progress(2, 2 + restore)
    tried: list[WeightError] = []
    for worst in [each for each in errors if each.name in reads][:restore]:
        found = quantized_hub.run(tokens, restored={worst.name: float_weight(worst.name)})[0]
        tried.append(dataclasses.replace(worst, kl_restored=mean_kl(logits, found)))
        progress(2 + len(tried), 2 + restore)
    again = {weight.name: weight for weight in tried}
    return Diagnosis(kl, tuple(again.get(weight.name, weight) for weight in errors), broken(errors))


def matmul_inputs(hub: Any) -> dict[str, str]:
    """Name of the tensor that each linear weight of a float hub multiplies, by the weight's name."""
    from quantize.hub_weights import stored_weight

    return {
        str(stored.name).removesuffix("_transposed"): node.inputs[0].name
        for node in hub.graph
        if node.op_type == "MatMul" and (stored := stored_weight(node.inputs[1])) is not None
    }


def folded_inputs(
    name: str,
    reads: dict[str, str],
    inputs: dict[str, NDArray[np.float32]],
    factors: dict[str, NDArray[np.float32]],
) -> NDArray[np.float32] | None:
    """What a weight multiplies where `factors` were folded in, given the float hub's tensors; None for a table."""
    if name not in reads:
        return None
    seen = inputs[reads[name]]
    return seen / factors[f"{name}{READ}"] if f"{name}{READ}" in factors else seen


def output_error(
    weight: NDArray[np.float32], quantized: "QuantizedWeight", inputs: NDArray[np.float32] | None
) -> float:
    """Relative error of the outputs for inputs [rows, in], or of the weight [out, in] itself without inputs."""
    difference = quantized.dequantize() - weight
    if inputs is None:
        return float(np.linalg.norm(difference) / np.linalg.norm(weight))
    return float(np.linalg.norm(inputs @ difference.T) / np.linalg.norm(inputs @ weight.T))


def broken(errors: Iterable[WeightError]) -> tuple[str, ...]:
    """Those whose error is both large and far from the median's."""
    found = list(errors)
    median = float(np.median([weight.error for weight in found]))
    return tuple(w.name for w in found if w.error > BROKEN_ERROR and w.error > BROKEN_TIMES * median)


def mean_kl(reference: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
    """Mean over positions of KL(softmax(reference) || softmax(logits)), nats; both [positions, vocab]."""
    found = np.empty(len(logits))
    for start in range(0, len(logits), ROWS):
        rows = slice(start, start + ROWS)
        expected, other = log_softmax(reference[rows]), log_softmax(logits[rows])
        found[rows] = (np.exp(expected) * (expected - other)).sum(axis=-1)
    return float(found.mean())


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-probabilities over the last axis."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
