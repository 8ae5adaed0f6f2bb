"""On a Snapdragon: open an HTP package's contexts, or compile its graphs afresh, and run one token through each.

`python -m validate.qnn_finalize PACKAGE`, called by the scripts in the package before they measure.
"""

import json
import sys
from pathlib import Path

import numpy as np

from export.digest import digest_file
from targets.errors import DeviceMissing, IntegrityError, StageFailed, TapeoutError
from validate.qnn_runtime import MANIFEST, Qnn, qairt
from validate.runtime import DEPLOYED


def finalize(package: Path, runtime: Qnn) -> str:
    """Check the files, open both graphs as they ship and run one chunk and one token.

    Returns:
        One sentence: what was opened.

    Raises:
        IntegrityError: a context differs from its digest.
        DeviceMissing: no execution provider here, or no NPU under it.
        StageFailed: the graphs ran and gave something that is not a number.
    """
    stated = json.loads((package / MANIFEST).read_text(encoding="utf-8"))
    for name, digest in stated["sha256"].items():
        if digest_file(package / name) != digest:
            raise IntegrityError(f"{name} differs from the digest in {MANIFEST}", "copy the bundle again")
    if runtime.evidence is not None:
        raise DeviceMissing(
            "this machine has no Hexagon NPU under the QNN execution provider",
            "run this on the Snapdragon, with onnxruntime-qnn and its NPU driver installed",
        )
    settings = {"backend_type": "htp", "htp_performance_mode": "burst", "offload_graph_io_quantization": "0"}
    settings |= {key: stated["requires"][key] for key in ("soc_model", "htp_arch")}
    session = runtime.session(package, settings, DEPLOYED)
    for tokens in (np.zeros(2, np.int64), np.zeros(1, np.int64)):
        if not np.isfinite(session.step(tokens)).all():
            raise StageFailed("the graphs gave logits that are not numbers", "report this device and its driver")
    made, here = stated["requires"]["qairt"], qairt()
    if made == here:
        return f"the contexts made with QAIRT {made} run here"
    return f"QAIRT is {here} here and {made} in the package: the graphs were compiled afresh, and run"


def main(package: Path) -> int:
    """Print the sentence, or the error; returns the exit code."""
    try:
        said, code = finalize(package, Qnn()), 0
    except TapeoutError as error:
        said, code = f"error: {error.what}\nhelp: {error.help}", error.exit_code
    sys.stdout.write(said + "\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
