"""What an NPU blob holds: an OpenVINO release, the parts that NPUW cut the model into, and one NPU binary for each."""

import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from export.digest import digest_file
from targets.errors import StageFailed

# The start of a language model's blob: openvino, src/plugins/intel_npu/src/plugin/npuw/serialization.hpp.
MAGIC = b"\x137npuw" + b"LLMCMO"
RELEASE = struct.Struct("<3iQ")
LONGEST_VERSION = 16

ELF = re.compile(rb"\x7fELF")
# NPUW names a part `<model>_<prefill|kv1152|lm_head>_<tag>__<number>`; a tag is `REP` for a block that repeats.
PART = re.compile(rb"_((prefill|kv\d+|lm_head)_[A-Z]+[0-9A-F]*__\d+)")
REQUIREMENT = re.compile(rb"compiler=[\d.]+;npu=\d+;[\w=;.]*")


@dataclass(frozen=True)
class BlobFacts:
    """One blob, read back from its file.

    Attributes:
        sha256: digest of the file.
        openvino: the release whose runtime alone can import it.
        serialization: NPUW's own format version, which must agree too.
        weightless: whether most weights stay in the package's `openvino_model.bin`.
        parts: names of the submodels that NPUW compiled, in order.
        binaries: how many NPU binaries (ELF files) it holds.
        requirements: what the binaries require of the device, each distinct one once.
    """

    sha256: str
    openvino: str
    serialization: str
    weightless: bool
    parts: tuple[str, ...]
    binaries: int
    requirements: tuple[str, ...]

    def sessions(self) -> dict[str, int]:
        """Binaries by what they compute: `prefill`, `decode` and `head`."""
        names = {"prefill": "prefill", "lm_head": "head"}
        found: dict[str, int] = {}
        for part in self.parts:
            stem = part.rsplit("__", 1)[0].rsplit("_", 1)[0]
            session = names.get(stem, "decode")
            found[session] = found.get(session, 0) + 1
        return found


def read_blob(path: Path) -> BlobFacts:
    """The facts of a blob file.

    Raises:
        StageFailed: it is not a language model's blob.
    """
    with path.open("rb") as stream:
        head = stream.read(len(MAGIC) + RELEASE.size + LONGEST_VERSION + 2)
        start = len(MAGIC) + RELEASE.size
        if not head.startswith(MAGIC) or len(head) < start:
            raise StageFailed(f"{path.name} is not the blob of a language model", "report this: the compiler changed")
        *release, length = RELEASE.unpack_from(head, len(MAGIC))
        if length > LONGEST_VERSION or len(head) < start + length + 2:
            raise StageFailed(f"{path.name} has an unknown header", "report this: OpenVINO changed its blobs")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            parts = [found[1].decode() for found in PART.finditer(data)]
            requirements = {found[0].decode() for found in REQUIREMENT.finditer(data)}
            binaries = sum(1 for _ in ELF.finditer(data))
    return BlobFacts(
        sha256=digest_file(path),
        openvino=".".join(map(str, release)),
        serialization=head[start : start + length].decode("ascii", "replace"),
        weightless=bool(head[start + length + 1]),
        parts=tuple(dict.fromkeys(parts)),
        binaries=binaries,
        requirements=tuple(sorted(requirements)),
    )


def check_blob(facts: BlobFacts, platform: str) -> None:
    """Refuse a blob of which some part is not a binary for the NPU of that platform.

    Raises:
        StageFailed: names what is missing.
    """
    if not facts.binaries or facts.binaries != len(facts.parts):
        raise StageFailed(
            f"the blob for NPU {platform} holds {facts.binaries} NPU binaries for {len(facts.parts)} parts of a model",
            "report this model: a part of it was not compiled for the NPU",
        )
    foreign = [text for text in facts.requirements if f";npu={platform};" not in text]
    if foreign or not facts.requirements:
        raise StageFailed(
            f"the blob for NPU {platform} requires {', '.join(foreign) or 'nothing that it names'}",
            "report this: the compiler compiled for another platform",
        )
