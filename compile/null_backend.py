"""A back end with no runtime: the whole flow runs where neither a device nor a runtime is."""

import json
from collections.abc import Mapping
from pathlib import Path

from compile.options import refuse_options
from compile.package import Package, check_same_weights, folder_bytes
from export.hub import copy_side_files
from quantize.quantizer import QuantizedModel

MARKER = "null.json"


class NullBackend:
    """Writes the quantized weights' digests where others write a runtime's files."""

    name = "null"

    def tools(self) -> Mapping[str, str]:
        """Nothing whose version matters."""
        return {}

    def compile_package(self, quantized: QuantizedModel, options: Mapping[str, str | int], out: Path) -> Package:
        """Write `null.json` and the tokenizer to `out`."""
        refuse_options(options, (), self.name)
        (out / MARKER).write_text(
            json.dumps({"scheme": quantized.scheme, "weights": quantized.weights}, indent=1) + "\n"
        )
        copy_side_files(quantized.folder, out)
        stored = json.loads((out / MARKER).read_text())["weights"]
        count = sum(quantized.counts.values())
        return Package(
            folder=out,
            facts=quantized.facts,
            backend=self.name,
            scheme=quantized.scheme,
            weights_digest=check_same_weights(quantized, stored, self.name),
            checks={"quantized_weights": count, "quantized_matmuls": count},
            settings={},
            package_bytes=folder_bytes(out),
        )
