"""The package: what one device loads through one runtime."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from export.model import ModelFacts
from quantize.quantizer import QuantizedModel
from quantize.weight import digest_weights
from targets.errors import StageFailed
from targets.status import Status


@dataclass(frozen=True)
class Package:
    """A folder that a runtime loads as it stands, tokenizer and chat template included.

    Attributes:
        folder: where the files are.
        facts: the architecture and its provenance.
        backend: the back end that made it, and so the runtime that loads it.
        scheme: the quantization scheme.
        weights_digest: of the quantized weights, read back from the files of this package.
        checks: what the back end counted in the compiled graph (attentions fused, weights compressed, ...).
        settings: runtime properties that the package is meant to be loaded with.
        package_bytes: size of all files.
        evidence: what making it proved: `compiled` by the device's own compiler, `prepared` for it, or nothing where
            the runtime compiles when it loads.
        next_step: what remains to be done on the device, naming the script in the package; None when nothing does.
        requires: what the package is tied to on the device: platform, compiler, release.
    """

    folder: Path
    facts: ModelFacts
    backend: str
    scheme: str
    weights_digest: str
    checks: dict[str, int]
    settings: dict[str, Any]
    package_bytes: int
    evidence: tuple[Status, ...] = ()
    next_step: str | None = None
    requires: dict[str, str] = field(default_factory=dict)


class Backend(Protocol):
    """One runtime: turns quantized weights into a package and proves what it did."""

    name: str

    def tools(self) -> Mapping[str, str]:
        """Name and version of everything whose version can change the package."""
        ...

    def compile_package(self, quantized: QuantizedModel, options: Mapping[str, str | int], out: Path) -> Package:
        """Write the package to the empty folder `out`; does not modify its input.

        Args:
            quantized: the hub with quantized weights.
            options: what the target says of the device.
            out: an empty folder.

        Raises:
            UsageError: an option that the back end does not know, or one that it needs and did not get.
        """
        ...


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check_same_weights(quantized: QuantizedModel, found: Mapping[str, str], backend: str) -> str:
    """The digest over `found` (each weight's digest by name), when it is the one that was quantized.

    Norms and biases that the recipe changed are part of it as the hub has them.

    Raises:
        StageFailed: a weight is missing or its numbers changed on the way into the package.
    """
    for name, digest in quantized.weights.items():
        if found.get(name) != digest:
            raise StageFailed(
                f"{backend} package: {name} {'holds other numbers than the hub' if name in found else 'is missing'}",
                "report this model: the back end lost or changed a quantized weight",
            )
    return digest_weights({name: found[name] for name in quantized.weights} | quantized.vectors)
