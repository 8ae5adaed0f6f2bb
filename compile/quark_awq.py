"""Have AMD Quark itself choose a checkpoint's numbers by its AWQ, in an environment of its own, and read them back.

The design's rule is that every runtime gets the same quantized weights. Here it does not hold, on purpose: a package
with these numbers is another candidate, and says so under `weights_chosen_by`.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.pinned_environment import ensure_environment, environments_folder
from compile.quark_checkpoint import CONFIG, EMBEDDING, QUARK, TENSORS, Checkpoint, read_checkpoint
from compile.quark_load import ENVIRONMENT, check_with_quark
from compile.ryzen_ai_options import quark_scheme
from compile.vendor_child import require_output, run_vendor
from export.architectures import expected_tensors
from export.digest import digest_bytes
from export.model import Model
from export.strict_json import parse_object
from quantize.calibration import TOKENS, Calibration
from quantize.recipe import AwqPlan
from quantize.weight import digest_weights
from targets.errors import StageFailed

# Runs in Quark's environment. By its module's name, so that its code is part of the package's key.
QUANTIZER = "compile.quark_quantizer"
# As many calibration sequences as our own AWQ looks at: the time Quark's takes grows with them.
SEQUENCES = AwqPlan().sequences
SECONDS = 3.5 * 3600
BYTES = 24 << 30


@dataclass(frozen=True)
class QuarkInputs:
    """What Quark's AWQ looks at.

    Attributes:
        model: the float model.
        calibration: tokens that the float model wrote, or the user's; never those that a package is judged by.
    """

    model: Model
    calibration: Calibration

    def said(self, scheme: str) -> str:
        """Who chose the weights, and by what."""
        calibration = f"{self.tokens().size} tokens of calibration {self.calibration.digest[:16]}"
        return f"AMD Quark {QUARK}, AWQ, {scheme}, {calibration}"

    def tokens(self) -> NDArray[np.int64]:
        """[sequences, tokens]: those that Quark gets."""
        return self.calibration.load()[:SEQUENCES]


def choose_with_quark(inputs: QuarkInputs, schemes: tuple[str, str], out: Path, scratch: Path) -> Checkpoint:
    """Write Quark's checkpoint of the float model to `out`, and read it back.

    `config.json` is the float model's own with Quark's description of the weights: that of transformers 5, which Quark
    writes, keeps the rotary base where transformers 4 does not look for it.

    Args:
        inputs: the float model and the tokens.
        schemes: our names of the layers' scheme and of the head's, of 4 bits with a zero point.
        out: a folder that has the tokenizer already.
        scratch: an empty folder for what Quark writes and says.

    Raises:
        UsageError: Quark has no such scheme.
        DeviceMissing: its environment cannot be made.
        TimedOut: it did not end.
        StageFailed: it fails, takes too much memory, writes another checkpoint than it was asked for, or does not read
            from it what we do.
        InputRefused: what it wrote is no sound safetensors file.
    """
    names = [quark_scheme(scheme) for scheme in schemes]
    python = ensure_environment(ENVIRONMENT, environments_folder())
    made, log = scratch / "checkpoint", scratch / "awq.log"
    what = f"AMD Quark {QUARK}: AWQ with {names[0]}"
    np.save(scratch / TOKENS, inputs.tokens(), allow_pickle=False)
    files = [str(inputs.model.folder), str(scratch / TOKENS)]
    # -I: the quantizer's own folder, whose modules may be called as standard ones are, stays out of the module path.
    command = [str(python), "-I", str(import_module(QUANTIZER).__file__), *files, *names, str(made)]
    # A compile stage says USE_TORCH=0. Threads that wait shall sleep: spinning, they take the cores from the others.
    variables = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "USE_TORCH": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    run_vendor(command, what=what, timeout_s=SECONDS, memory_bytes=BYTES, log=log, environment=variables)
    require_output([made / CONFIG, made / TENSORS], what, log)
    described = parse_object((made / CONFIG).read_bytes(), str(made / CONFIG)).get("quantization_config")
    own = parse_object((inputs.model.folder / CONFIG).read_bytes(), str(inputs.model.folder / CONFIG))
    config = {**own, "tie_word_embeddings": False, "quantization_config": described}
    shutil.copyfile(made / TENSORS, out / TENSORS)
    (out / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    checkpoint = read_chosen(out)
    check_with_quark(out, checkpoint, scratch)
    return checkpoint


def read_chosen(folder: Path) -> Checkpoint:
    """What a checkpoint of Quark's AWQ holds, all of it as its `config.json` promises.

    Raises:
        InputRefused: the safetensors file is not sound.
        StageFailed: another release or algorithm made it, a tensor is missing, unexpected or of another shape or form,
            or a number is not finite.
    """
    config = parse_object((folder / CONFIG).read_bytes(), str(folder / CONFIG))
    checkpoint = read_checkpoint(folder)
    check_maker(config["quantization_config"])
    expected = expected_tensors(config, str(folder / CONFIG))
    found = {name: weight.codes.shape for name, weight in checkpoint.packed.items()}
    linear = {name for name, shape in expected.items() if len(shape) == 2 and name != EMBEDDING}
    if set(found) != linear:
        refuse(f"packed {named(set(found) ^ linear)}, where the model's linear weights were to be packed")
    found |= {name: array.shape for name, array in checkpoint.floats.items()}
    for name in sorted(set(found) | set(expected)):
        if found.get(name) != expected.get(name):
            refuse(f"{name} is {found.get(name, 'missing')}, and {CONFIG} promises {expected.get(name, 'none')}")
    scales = {name: weight.scales for name, weight in checkpoint.packed.items()}
    for name, array in {**scales, **checkpoint.floats}.items():
        if not np.isfinite(array).all():
            refuse(f"{name} holds numbers that are not finite")
    return checkpoint


def check_maker(described: Mapping[str, Any]) -> None:
    """Refuse what another release of Quark made, or made without AWQ.

    Raises:
        StageFailed: it did.
    """
    algorithms = [each.get("name") for each in described.get("algo_config") or ()]
    if (described.get("version"), algorithms) != (QUARK, ["awq"]):
        refuse(f"it says version {described.get('version')} and {named(set(map(str, algorithms)))}")


def refuse(why: str) -> None:
    """End with what is wrong about Quark's checkpoint.

    Raises:
        StageFailed: always.
    """
    raise StageFailed(
        f"AMD Quark {QUARK} wrote another checkpoint than AWQ's of this model: {why}",
        "leave the option quark out: the package is then made with our numbers",
    )


def named(names: set[str]) -> str:
    """Up to three of them, or that there are none."""
    return ", ".join(sorted(names)[:3]) or "nothing"


def digest_of(checkpoint: Checkpoint) -> str:
    """One digest over every number of a checkpoint; with AWQ the norms are no longer the float model's either."""
    floats = {name: digest_bytes(array.astype("<f4").tobytes()) for name, array in checkpoint.floats.items()}
    return digest_weights({name: weight.digest() for name, weight in checkpoint.packed.items()} | floats)
