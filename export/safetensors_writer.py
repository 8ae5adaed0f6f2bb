"""Write a safetensors file tensor by tensor, so that memory holds one block of rows and never the model."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from targets.errors import StageFailed


def stream_safetensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], blocks: Callable[[str], Iterator[NDArray[np.float32]]]
) -> None:
    """Write float32 tensors.

    Args:
        path: the file to make.
        shapes: the tensors in the order of the file.
        blocks: yields the values of one tensor in row-major order, in pieces of any size.

    Raises:
        StageFailed: `blocks` gave more or fewer values than the shape holds.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    # Tensors start on 8 bytes for readers that map the file.
    text += b" " * (-len(text) % 8)
    with path.open("xb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            written = sum(stream.write(block.astype("<f4", copy=False).tobytes()) for block in blocks(name))
            if written != 4 * int(np.prod(shape, dtype=np.int64)):
                raise StageFailed(f"{name} gave {written} bytes for the shape {list(shape)}", "report this as a bug")
