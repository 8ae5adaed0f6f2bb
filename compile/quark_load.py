"""Have AMD Quark itself read a checkpoint of ours, in an environment of its own, and compare what it makes of it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from compile.pinned_environment import PinnedEnvironment, ensure_environment, environments_folder, is_complete
from compile.vendor_child import require_output, run_vendor
from export.digest import digest_bytes
from targets.errors import StageFailed
from targets.probe import Available, Missing

if TYPE_CHECKING:
    from compile.quark_checkpoint import Checkpoint

HERE = Path(__file__).parent
ENVIRONMENT = PinnedEnvironment("quark", HERE / "quark_requirements.txt", first=("torch",))
READER = HERE / "quark_reader.py"
SECONDS = 1800.0
BYTES = 16 << 30


def describe_quark() -> Available | Missing:
    """Whether AMD Quark's environment is installed; nothing is started or fetched."""
    from compile.quark_checkpoint import QUARK

    if is_complete(ENVIRONMENT, environments_folder()):
        return Available(QUARK)
    return Missing(
        "AMD Quark's own environment is not installed; only the option quark needs it",
        'write options = { quark = "load" } in the target: it is installed once, 2 GB',
    )


def quark_pins() -> str:
    """What AMD Quark's environment is made of, which decides the numbers that its AWQ chooses."""
    return ENVIRONMENT.key


def check_with_quark(folder: Path, checkpoint: "Checkpoint", scratch: Path) -> int:
    """Let Quark load the checkpoint in `folder` and dequantize it; the number of weights on which it agrees.

    Args:
        folder: of the checkpoint.
        checkpoint: what we read from it.
        scratch: an empty folder for the log and the answer.

    Raises:
        DeviceMissing: the environment cannot be made.
        TimedOut: Quark did not end.
        StageFailed: Quark refuses the checkpoint, or gets other numbers from it.
    """
    import numpy as np

    from compile.quark_checkpoint import QUARK

    python = ensure_environment(ENVIRONMENT, environments_folder())
    answer, log = scratch / "quark.json", scratch / "quark.log"
    what = f"AMD Quark {QUARK}: reading the checkpoint"
    offline = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    # -I: the reader's own folder, whose modules may be called as standard ones are, stays out of the module path.
    command = [str(python), "-I", str(READER), str(folder), str(answer)]
    run_vendor(command, what=what, timeout_s=SECONDS, memory_bytes=BYTES, log=log, environment=offline)
    require_output([answer], what, log)
    theirs = json.loads(answer.read_text(encoding="utf-8"))
    ours = {
        name: digest_bytes(np.ascontiguousarray(weight.dequantize()).tobytes())
        for name, weight in checkpoint.packed.items()
    }
    for name in sorted(set(ours) | set(theirs)):
        if ours.get(name) != theirs.get(name):
            raise StageFailed(
                f"AMD Quark reads other numbers than ours from {name}", "report this model: its checkpoint is wrong"
            )
    return len(ours)
