"""What a recipe folded into the float tensors of a hub: put the changed vectors in their place, and keep the factors.

A folded weight is not the float model's: whoever compares the two needs what it was multiplied by.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from export.digest import digest_bytes
from export.safetensors_writer import stream_safetensors
from quantize.awq import Fold
from targets.errors import StageFailed

if TYPE_CHECKING:
    import onnx_ir as ir

FOLDS = "folds.safetensors"
READ, MADE = ".read", ".made"


def replace_vectors(hub: "ir.Model", fold: Fold) -> dict[str, str]:
    """Put the fold's norms and biases in place of the hub's; returns each one's digest by name.

    Raises:
        StageFailed: the hub has no such vector, or one of another length.
    """
    import onnx_ir as ir

    digests = {}
    for name, vector in sorted(fold.vectors.items()):
        array = np.ascontiguousarray(vector.numpy(), dtype=np.float32)
        value = hub.graph.initializers.get(name)
        if value is None or value.const_value is None or tuple(value.const_value.shape.numpy()) != array.shape:
            raise StageFailed(
                f"the hub has no vector {name} of {len(array)}", "report this model: its norms were not found"
            )
        value.const_value = ir.tensor(array, name=name)
        digests[name] = digest_bytes(array.astype("<f4").tobytes())
    return digests


def write_fold(fold: Fold, folder: Path) -> None:
    """Write the factors to `folds.safetensors`; nothing when there are none."""
    factors = {f"{name}{READ}": vector for name, vector in sorted(fold.read.items())}
    factors |= {f"{name}{MADE}": vector for name, vector in sorted(fold.made.items())}

    def blocks(name: str) -> Iterator[NDArray[np.float32]]:
        yield factors[name].numpy()

    if factors:
        stream_safetensors(folder / FOLDS, {name: tuple(vector.shape) for name, vector in factors.items()}, blocks)


def read_factors(folder: Path) -> dict[str, NDArray[np.float32]]:
    """The factors by weight name and `.read` or `.made`; empty when nothing was folded."""
    if not (folder / FOLDS).exists():
        return {}
    from safetensors.numpy import load_file

    factors: dict[str, Any] = load_file(folder / FOLDS)
    return factors


def folded(weight: NDArray[np.float32], name: str, factors: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """A weight [out, in] of the float model with what was folded into it."""
    if f"{name}{READ}" in factors:
        weight = weight * factors[f"{name}{READ}"]
    if f"{name}{MADE}" in factors:
        weight = weight / factors[f"{name}{MADE}"][:, None]
    return weight
