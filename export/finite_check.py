"""Look at every stored float: a NaN or an infinity among the weights spreads through whatever is made of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from export.safetensors_check import StoredTensor, check_safetensors
from targets.errors import InputRefused

BLOCK_BYTES = 16 << 20
# The bits that are all set in an infinity and in every NaN, by dtype.
EXPONENTS = {"F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}


def check_finite(path: Path) -> None:
    """Read the float tensors of a checked safetensors file.

    Raises:
        InputRefused: one of them holds a value that is not finite.
    """
    tensors = check_safetensors(path)
    with path.open("rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
        for name, tensor in tensors.items():
            if tensor.dtype in EXPONENTS:
                stream.seek(start + tensor.begin)
                if not _finite(stream.read, tensor):
                    raise InputRefused(
                        f"{path} holds values of {name!r} that are not finite", "convert the model again"
                    )


def _finite(read: Callable[[int], bytes], tensor: StoredTensor) -> bool:
    code, exponent = EXPONENTS[tensor.dtype]
    left = tensor.end - tensor.begin
    while left:
        block = np.frombuffer(read(min(left, BLOCK_BYTES)), code)
        if ((block & exponent) == exponent).any():
            return False
        left -= block.nbytes
    return True
