#!/bin/sh
# On the device: compile this package for its GPU, then measure the bundle it came in.
# PYTHON names the interpreter that has OpenVINO GenAI; TAPEOUT the command that validates.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
"${PYTHON:-python3}" "$here/finalize.py"

bundle=$(dirname -- "$(dirname -- "$here")")
if [ ! -f "$bundle/manifest.json" ]; then
    echo "this package is not in a bundle: nothing to validate against"
elif command -v "${TAPEOUT:-tapeout}" >/dev/null 2>&1; then
    exec "${TAPEOUT:-tapeout}" validate "$bundle"
else
    echo "to measure it: pip install 'tapeout[device]', then: tapeout validate $bundle"
fi
