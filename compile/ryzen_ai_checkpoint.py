"""Quantized -> the checkpoint of a Ryzen AI package: with our numbers, or with those that AMD Quark's AWQ chooses."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compile.package import check_same_weights
from compile.quark_awq import QuarkInputs, choose_with_quark, digest_of
from compile.quark_checkpoint import (
    CONFIG,
    EMBEDDING,
    HEAD,
    Checkpoint,
    collect,
    read_checkpoint,
    refuse_other_vectors,
    write_checkpoint,
)
from compile.quark_load import check_with_quark
from compile.ryzen_ai_options import AWQ, LOADED, quark_scheme
from export.architectures import expected_tensors
from export.model import Model
from export.strict_json import parse_object
from quantize.calibration import Calibration
from quantize.quantizer import QuantizedModel
from targets.errors import UsageError

if TYPE_CHECKING:
    import onnx_ir as ir

BACKEND = "ryzen-ai"


@dataclass(frozen=True)
class Written:
    """The checkpoint in `quark/`, and what is to be said of it.

    Attributes:
        checkpoint: as it was read back.
        weights_digest: of its numbers.
        checks: what was counted in it.
        chosen_by: who chose the numbers, where that was not the stage `quantize`; None where it was.
    """

    checkpoint: Checkpoint
    weights_digest: str
    checks: dict[str, int]
    chosen_by: str | None = None


def write_ours(hub: "ir.Model", quantized: QuantizedModel, folder: Path, asked: str) -> Written:
    """Write the hub's own numbers, and have Quark read them where that is `asked`.

    Raises:
        DeviceMissing, TimedOut, StageFailed: as `compile_package`.
    """
    config = parse_object((quantized.folder / CONFIG).read_bytes(), str(quantized.folder / CONFIG))
    config = {**config, "tie_word_embeddings": False}
    write_checkpoint(collect(hub, config), config, folder)
    checkpoint = read_checkpoint(folder)
    digest = check_same_weights(quantized, checkpoint_weights(checkpoint, quantized), BACKEND)
    checks = {"checkpoint_uint4_weights": len(checkpoint.packed)}
    if asked == LOADED:
        with tempfile.TemporaryDirectory() as scratch:
            checks["weights_read_by_quark"] = check_with_quark(folder, checkpoint, Path(scratch))
    return Written(checkpoint, digest, checks)


def write_theirs(hub: "ir.Model", quantized: QuantizedModel, inputs: QuarkInputs, folder: Path) -> Written:
    """Have Quark's AWQ choose the numbers, and put them in place of the hub's.

    Its scratch folder, and with it the log, stays where Quark fails.

    Raises:
        UsageError, DeviceMissing, TimedOut, StageFailed: as `compile_package`.
    """
    from compile.ryzen_ai_adopt import adopt
    from compile.ryzen_ai_head import HEAD_SCHEME

    config = parse_object((quantized.folder / CONFIG).read_bytes(), str(quantized.folder / CONFIG))
    refuse_other_vectors(hub, expected_tensors(config, CONFIG))
    scratch = Path(tempfile.mkdtemp(prefix="tapeout-quark-"))
    checkpoint = choose_with_quark(inputs, (quantized.scheme, HEAD_SCHEME), folder, scratch)
    shutil.rmtree(scratch)
    adopt(hub, checkpoint)
    count = len(checkpoint.packed)
    checks = {"checkpoint_uint4_weights": count, "quantized_weights": count, "weights_read_by_quark": count}
    return Written(checkpoint, digest_of(checkpoint), checks, inputs.said(quark_scheme(quantized.scheme)))


def quark_inputs(model: Model | None, calibration: Calibration | None) -> QuarkInputs:
    """What Quark's AWQ looks at.

    Raises:
        UsageError: something of it is not there.
    """
    if model is None or calibration is None:
        raise UsageError(
            f'quark = "{AWQ}" needs the float model and its calibration tokens',
            "run the stages `import` and `calibrate` on this model first",
        )
    return QuarkInputs(model, calibration)


def checkpoint_weights(checkpoint: Checkpoint, quantized: QuantizedModel) -> dict[str, str]:
    """Digest of every quantized weight, as far as a checkpoint's files bear it out.

    The embedding table stands there as floats: it is the one that was quantized when every float is the product of a
    code and its scale. The head stands there in 4 bits: it is the one when rounding it again gives those.
    """
    import numpy as np
    import onnx_ir as ir

    from compile.ryzen_ai_head import rounded
    from quantize.hub_weights import quantized_weights

    hub = {name: weight for name, _, weight in quantized_weights(ir.load(quantized.graph))}
    found = {name: weight.digest() for name, weight in checkpoint.packed.items() if name != HEAD}
    table, head = hub.get(EMBEDDING), hub.get(HEAD, hub.get(EMBEDDING))
    if table is not None and np.array_equal(checkpoint.floats[EMBEDDING], table.dequantize()):
        found[EMBEDDING] = table.digest()
    if head is None or rounded(head).digest() != checkpoint.packed[HEAD].digest():
        found.pop(EMBEDDING, None)
    elif HEAD in hub:
        found[HEAD] = head.digest()
    return found
