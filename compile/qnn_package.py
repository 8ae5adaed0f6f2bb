"""What lies beside the graphs of an HTP package: what it is tied to, and the scripts that finish it on the device."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from compile.qnn_compiler import binary_of
from export.digest import digest_file

MANIFEST = "htp.json"

POSIX = """#!/bin/sh
# Finish this package on the device: check the QAIRT release, open the contexts or compile afresh, then measure.
# Usage: finalize.sh [BUNDLE]   with tapeout and onnxruntime-qnn installed in the Python on the path.
set -eu
package=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
bundle=${1:-$package/../..}
python3 -m validate.qnn_finalize "$package"
exec python3 -m tapeout validate "$bundle"
"""

WINDOWS = """# Finish this package on the device: check the QAIRT release, open the contexts or compile afresh, measure.
# Usage: finalize.ps1 [BUNDLE]   with tapeout and onnxruntime-qnn installed in the Python on the path.
param([string]$Bundle = (Join-Path $PSScriptRoot '..\\..'))
$ErrorActionPreference = 'Stop'
python -m validate.qnn_finalize $PSScriptRoot
if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE }
python -m tapeout validate $Bundle
exit $LASTEXITCODE
"""


def write_manifest(
    out: Path, requires: Mapping[str, str], lengths: Mapping[str, int], contexts: Sequence[Path]
) -> None:
    """Write `htp.json`: what the contexts are tied to, their lengths in tokens, and the digest of each.

    Args:
        out: the package.
        requires: device, QAIRT and execution provider that the contexts were made for and with.
        lengths: slots of the KV cache (`context`) and tokens that one prefill takes (`chunk`).
        contexts: `<session>_ctx.onnx`, the first of which has the binary beside it.
    """
    sessions = {
        path.stem.removesuffix("_ctx"): {"graph": f"{path.stem.removesuffix('_ctx')}.onnx", "context": path.name}
        for path in contexts
    }
    digests = {path.name: digest_file(path) for path in [*contexts, binary_of(contexts[0])]}
    stated = {"requires": dict(requires), "lengths": dict(lengths), "sessions": sessions, "sha256": digests}
    (out / MANIFEST).write_text(json.dumps(stated, indent=2) + "\n", encoding="utf-8")


def write_scripts(out: Path) -> None:
    """Write what a user runs on the device."""
    posix = out / "finalize.sh"
    posix.write_text(POSIX, encoding="utf-8", newline="\n")
    posix.chmod(0o755)
    (out / "finalize.ps1").write_text(WINDOWS, encoding="utf-8", newline="\r\n")
