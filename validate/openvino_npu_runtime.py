"""Intel NPU: on the NPU where there is one, else emulated: NPUW's static-shape pipeline with this CPU in its place.

Emulation is the plugin's own code: the same partitioning, the same static shapes, the same left padding, scales and KV
cache in float16. What it does not show is the NPU's own arithmetic and speed. Logits are computed in float32, so that
their distance from the float32 session is NPUW's doing and the same on every host; answers in what the CPU prefers.
"""

import io
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.npu_compiler_blob import read_blob
from compile.openvino_npu_shapes import npuw_properties
from targets.errors import InputRefused, StageFailed
from targets.status import Status
from validate.boundaries import boundary_lengths
from validate.measurement import Placement
from validate.openvino_runtime import FLOAT32, MODEL, OpenVinoPipeline, OpenVinoSession
from validate.runtime import WEIGHTS, Coverage

DEVICE = "NPU"
BLOB = "openvino_model.blob"
BINARY = "openvino_model.bin"
FINALIZED = "finalized.json"
EMULATED = "CPU through NPUW"

HOST_ARITHMETIC = {"INFERENCE_PRECISION_HINT": "f32"}

# The shipped pipeline computes the logits of the last position alone, in a head that prefill and decode share. These
# make NPUW keep the head in each and give every position: same weights, same shapes, same padding.
EVERY_POSITION = {"NPUW_LLM_SHARED_HEAD": "NO", "NPUW_SLICE_OUT": "NO"}

# What the CPU plugin starts every submodel with when NPUW exports them.
CPU_SUBMODEL = b"<cnndata>"


class OpenVinoNpu:
    """The NPU plugin, with or without the NPU."""

    @property
    def evidence(self) -> Status | None:
        """Emulated, unless OpenVINO finds an NPU here."""
        return None if has_npu() else Status.EMULATED

    @property
    def coverage(self) -> Coverage | None:
        """Each prompt costs the longest prompt's time, since shapes are static: half of the golden windows."""
        return Coverage(windows=1, prefill=248, decode=8)

    def session(self, package: Path, settings: Mapping[str, Any], setting: str) -> "OpenVinoSession | NpuwSession":
        """The package's IR in float32 on the CPU plugin, or through NPUW at every position."""
        if setting == WEIGHTS:
            return OpenVinoSession(package, FLOAT32)
        return NpuwSession(package, settings, EVERY_POSITION)

    def pipeline(self, package: Path, settings: Mapping[str, Any]) -> OpenVinoPipeline:
        """LLMPipeline on the device "NPU", from the blob where the device's own script found that it can be."""
        return NpuPipeline(package, settings)

    def boundaries(self, package: Path, settings: Mapping[str, Any]) -> tuple["NpuwSession", tuple[int, ...]]:
        """The pipeline's own shapes and shared head, which pad a prompt on the left from nothing to all but a token."""
        session = NpuwSession(package, settings, {})
        chunk = int(session.compiled.get_property("NPUW_LLM_PREFILL_CHUNK_SIZE"))
        return session, boundary_lengths(session.longest_prompt, chunk)

    def placement(self, package: Path, settings: Mapping[str, Any]) -> tuple[Placement, ...]:
        """What the blob holds and, where there is no NPU, what the emulation made of the model.

        Neither lists the operators inside a part, so a part counts as one: the whole of it is on the device.
        """
        placements = []
        weights = (package / BINARY).stat().st_size
        if (package / BLOB).is_file():
            blob = read_blob(package / BLOB)
            parts = blob.sessions()
            inside = {DEVICE: blob.binaries}
            names = ", ".join(f"{count} for {session}" for session, count in parts.items())
            outside = {"part without an NPU binary": len(blob.parts) - blob.binaries}
            elsewhere = {name: count for name, count in outside.items() if count > 0}
            placements.append(Placement(f"blob ({names})", DEVICE, inside, {DEVICE: weights}, elsewhere))
        if not has_npu():
            count = count_emulated(package, settings)
            placements.append(Placement("emulation", EMULATED, {EMULATED: count}, {EMULATED: weights}))
        return tuple(placements)

    def versions(self) -> dict[str, str]:
        """Versions of the runtime's wheels, and of the driver where there is an NPU."""
        found = {name: version(name) for name in ("openvino", "openvino-genai", "openvino-tokenizers")}
        if has_npu():
            import openvino as ov

            found["npu driver"] = str(ov.Core().get_property(DEVICE, "NPU_DRIVER_VERSION"))
        return found


def has_npu() -> bool:
    """Whether OpenVINO finds an NPU on this machine."""
    import openvino as ov

    return any(name.split(".")[0] == DEVICE for name in ov.Core().available_devices)


def plugin_properties(settings: Mapping[str, Any]) -> dict[str, str]:
    """What the NPU plugin is given for a package's settings, here."""
    if has_npu():
        return npuw_properties(settings)
    return npuw_properties(settings, "CPU") | HOST_ARITHMETIC


def pipeline_properties(package: Path, settings: Mapping[str, Any], emulate: bool) -> dict[str, Any]:
    """What LLMPipeline is given: on the device the blob, when `finalize` imported it there, else the shapes."""
    if emulate:
        return {**settings, "NPU_USE_NPUW": "YES", "NPUW_DEVICES": "CPU"}
    record = package / FINALIZED
    if record.is_file() and json.loads(record.read_text(encoding="utf-8"))["imported"]:
        return {"BLOB_PATH": str(package / BLOB), "WEIGHTS_PATH": str(package / BINARY)}
    return dict(settings)


def count_emulated(package: Path, settings: Mapping[str, Any]) -> int:
    """How many submodels NPUW cut the model into and compiled for the CPU, counted in what it exports."""
    exported = io.BytesIO()
    compile_through_npuw(package, plugin_properties(settings)).export_model(exported)
    return exported.getvalue().count(CPU_SUBMODEL)


def compile_through_npuw(package: Path, properties: Mapping[str, str]) -> Any:
    """The package's IR, cut up and compiled by NPUW.

    Raises:
        StageFailed: NPUW does not take the model.
    """
    import openvino as ov

    try:
        return ov.Core().compile_model(package / MODEL, DEVICE, dict(properties))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise StageFailed(f"NPUW does not take the model: {reason}", "report this model, with this reason") from error


class NpuPipeline(OpenVinoPipeline):
    """openvino_genai.LLMPipeline on the device "NPU"."""

    def __init__(self, package: Path, settings: Mapping[str, Any]) -> None:
        import openvino_genai

        properties = pipeline_properties(package, settings, emulate=not has_npu())
        self.pipeline = openvino_genai.LLMPipeline(str(package), DEVICE, **properties)


class NpuwSession:
    """One sequence through NPUW: the first tokens as one padded prompt, every further one by itself."""

    def __init__(self, package: Path, settings: Mapping[str, Any], extra: Mapping[str, str]) -> None:
        self.compiled = compile_through_npuw(package, plugin_properties(settings) | dict(extra))
        self.request = self.compiled.create_infer_request()
        self.longest_prompt = int(self.compiled.get_property("NPUW_LLM_MAX_PROMPT_LEN"))
        self.capacity = self.longest_prompt + int(self.compiled.get_property("NPUW_LLM_MIN_RESPONSE_LEN"))
        self.length = 0

    def reset(self) -> None:
        """Forget the sequence."""
        self.request.reset_state()
        self.length = 0

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits of the next n tokens [n]: [n, vocab], or the last position's alone [1, vocab] after a prompt when NPUW
        was not told to give every position.

        Raises:
            InputRefused: more tokens than the static shapes hold.
        """
        if self.length + len(tokens) > self.capacity:
            raise InputRefused(
                f"{self.length + len(tokens)} tokens do not fit the NPU's static shapes of {self.capacity}",
                "ask for a shorter sequence, or build for longer prompts",
            )
        first = 0 if self.length else min(len(tokens), self.longest_prompt)
        logits = [self.infer(tokens[:first])] if first else []
        logits += [self.infer(tokens[index : index + 1]) for index in range(first, len(tokens))]
        return np.concatenate(logits)

    def infer(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """One request. NPUW pads a prompt on the left, and so gives as many rows as its static shape has."""
        start, self.length = self.length, self.length + len(tokens)
        result = self.request.infer(
            {
                "input_ids": tokens[None],
                "attention_mask": np.ones((1, self.length), np.int64),
                "position_ids": np.arange(start, self.length, dtype=np.int64)[None],
                "beam_idx": np.zeros(1, np.int32),
            }
        )
        return np.array(result["logits"][0][-len(tokens) :], dtype=np.float32)
