"""The NPU's static-shape pipeline emulated on this CPU: its numerics, boundaries, known fault and placement."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compile.npu_compiler import SWITCH_VARIABLE
from compile.openvino_npu_backend import OpenVinoNpuBackend
from compile.package import Package
from export.hub import export_hub
from export.model import import_model
from export.source import CatalogName
from quantize.quantizer import quantize_model
from targets.errors import InputRefused, StageFailed
from targets.probe import probe_host
from targets.status import Status
from tests.conftest import Quantized
from tests.test_compile_npu_compiler import blob_bytes
from validate.boundaries import boundary_lengths, largest_kl, measure_boundaries
from validate.measurement import BoundaryGap
from validate.openvino_npu_runtime import (
    EMULATED,
    NpuwSession,
    OpenVinoNpu,
    has_npu,
    pipeline_properties,
)
from validate.runtime import DEPLOYED, WEIGHTS, Session
from validate.stand_in import measure_gap

CLOSE = 0.01  # nats: what the issue of a stand-in's fidelity allows
TINY_CLOSE = 1e-4  # measured: 1e-6, the key-value cache and the scales being float16

pytestmark = pytest.mark.skipif(has_npu(), reason="this machine has an NPU: nothing is emulated")


@pytest.fixture(scope="module")
def package(tiny_quantized: Quantized, new_folder: Callable[[str], Path]) -> Package:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH_VARIABLE, "off")
        return OpenVinoNpuBackend().compile_package(
            tiny_quantized["w8-sym"], {"npu_platform": "4000"}, new_folder("npu")
        )


@pytest.fixture(scope="module")
def text(package: Package) -> NDArray[np.int64]:
    return np.random.default_rng(3).integers(3, package.facts.vocab_size, 128)


def gap(package: Package, tokens: NDArray[np.int64], prompt: int) -> float:
    """KL(CPU || emulation) of `tokens`, the first `prompt` of them at once."""
    runtime = OpenVinoNpu()
    sessions: list[Session] = [runtime.session(package.folder, package.settings, kind) for kind in (WEIGHTS, DEPLOYED)]
    logits = []
    for session in sessions:
        session.reset()
        pieces = [tokens[:prompt], *(tokens[index : index + 1] for index in range(prompt, len(tokens)))]
        logits.append(np.concatenate([session.step(piece) for piece in pieces]))
    assert logits[0].shape == logits[1].shape == (len(tokens), package.facts.vocab_size)
    return measure_gap(iter([(logits[0], logits[1])])).kl_mean


@pytest.mark.parametrize("prompt", [1, 2, 63, 64])
def test_every_position_is_what_the_cpu_computes(package: Package, text: NDArray[np.int64], prompt: int) -> None:
    assert gap(package, text[: prompt + 3], prompt) < TINY_CLOSE


def test_the_pipeline_as_it_ships_holds_at_its_boundaries(package: Package, text: NDArray[np.int64]) -> None:
    found = at_boundaries(package, text)
    assert [each.prompt_tokens for each in found] == [1, 2, 63, 64]
    assert largest_kl(found) < TINY_CLOSE
    assert all(each.agrees for each in found)


def at_boundaries(package: Package, text: NDArray[np.int64]) -> tuple[BoundaryGap, ...]:
    runtime = OpenVinoNpu()
    session, lengths = runtime.boundaries(package.folder, package.settings)
    reference = runtime.session(package.folder, package.settings, WEIGHTS)
    return measure_boundaries(reference, session, text, lengths, lambda done, total: None)


def test_boundaries_are_the_ends_and_the_chunks() -> None:
    assert boundary_lengths(1024, 1024) == (1, 2, 1023, 1024)
    assert boundary_lengths(512, 256) == (1, 2, 255, 256, 257, 511, 512)


@pytest.mark.parametrize(("lowest", "arithmetic"), [(-np.inf, "f32"), (-3.4028234663852886e38, "bf16")])
def test_a_mask_that_is_not_finite_makes_every_token_id_0(
    package: Package, text: NDArray[np.int64], tmp_path: Path, lowest: float, arithmetic: str
) -> None:
    """Known fault, kept alive on purpose: the compile stage refuses such a graph; if it did not, this gate would fail.

    The lowest float32 is infinite in bfloat16 and in the NPU's float16, and finite in float32.
    """
    if arithmetic == "bf16" and "avx512_bf16" not in probe_host().instruction_sets:
        pytest.skip("this CPU computes in float32 only")
    mask_with(package.folder, np.float32(lowest), tmp_path)
    extra = {"INFERENCE_PRECISION_HINT": arithmetic}
    right, padded = (
        NpuwSession(folder, package.settings, extra).step(text[:5])[-1:] for folder in (package.folder, tmp_path)
    )
    assert np.isfinite(right).all()
    assert padded.argmax() == 0
    assert not measure_gap(iter([(right, padded)])).kl_mean <= CLOSE


def mask_with(folder: Path, lowest: np.float32, out: Path) -> None:
    """A copy of a package's IR that masks with another number than the hub's."""
    import openvino as ov
    from openvino import opset13

    model = ov.Core().read_model(folder / "openvino_model.xml")
    masks = [
        node
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Constant" and node.get_output_size() == 1 and holds(node, -65504.0)
    ]
    assert masks
    for node in masks:
        other = opset13.constant(np.full(node.get_output_shape(0), lowest, np.float32))
        for port in node.output(0).get_target_inputs():
            port.replace_source_output(other.output(0))
    ov.save_model(model, out / "openvino_model.xml", compress_to_fp16=False)


def holds(node: Any, number: float) -> bool:
    shape = node.get_output_shape(0)
    return bool(int(np.prod(shape)) == 1 and node.get_element_type().is_real() and node.get_data().item() == number)


def test_more_tokens_than_the_shapes_hold_are_refused(package: Package, text: NDArray[np.int64]) -> None:
    session = NpuwSession(package.folder, package.settings, {})
    with pytest.raises(InputRefused, match="129 tokens do not fit the NPU's static shapes of 128"):
        session.step(np.append(text, 1))


def test_a_model_that_npuw_does_not_take_is_a_typed_error(package: Package, tmp_path: Path) -> None:
    (tmp_path / "openvino_model.xml").write_text("<net/>")
    with pytest.raises(StageFailed, match="NPUW does not take the model: Exception from"):
        NpuwSession(tmp_path, package.settings, {})


def test_a_longer_prompt_than_the_shape_goes_on_token_by_token(package: Package, text: NDArray[np.int64]) -> None:
    assert gap(package, text[:70], 70) < TINY_CLOSE


def test_the_pipeline_generates_and_chats(package: Package) -> None:
    runtime = OpenVinoNpu()
    assert runtime.evidence is Status.EMULATED
    pipeline = runtime.pipeline(package.folder, package.settings)
    generated = pipeline.generate([5, 6, 7], 4, stop=False)
    session = runtime.session(package.folder, package.settings, WEIGHTS)
    tokens = [int(session.step(np.array([5, 6, 7]))[-1].argmax())]
    while len(tokens) < 4:
        tokens.append(int(session.step(np.array(tokens[-1:]))[-1].argmax()))
    assert generated.tokens == tuple(tokens)
    assert isinstance(pipeline.chat("The model is small", 2), str)


def test_placement_tells_the_blob_from_the_emulation(package: Package, tmp_path: Path) -> None:
    runtime = OpenVinoNpu()
    (emulated,) = runtime.placement(package.folder, package.settings)
    assert (emulated.session, emulated.requested, list(emulated.operators)) == ("emulation", EMULATED, [EMULATED])
    assert emulated.operators[EMULATED] >= 3
    for path in package.folder.glob("openvino_model.*"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "openvino_model.blob").write_bytes(blob_bytes(binaries=3))
    blob = runtime.placement(tmp_path, package.settings)[0]
    assert (blob.requested, blob.operators) == ("NPU", {"NPU": 3})
    assert blob.elsewhere == {"part without an NPU binary": 1}
    assert blob.session == "blob (2 for prefill, 1 for decode, 1 for head)"


def test_on_the_device_the_blob_is_loaded_when_the_device_took_it(tmp_path: Path) -> None:
    shapes = {"MAX_PROMPT_LEN": 64, "MIN_RESPONSE_LEN": 64}
    assert pipeline_properties(tmp_path, shapes, emulate=False) == shapes
    (tmp_path / "finalized.json").write_text(json.dumps({"imported": False}))
    assert pipeline_properties(tmp_path, shapes, emulate=False) == shapes
    (tmp_path / "finalized.json").write_text(json.dumps({"imported": True}))
    loaded = pipeline_properties(tmp_path, shapes, emulate=False)
    assert [Path(path).name for path in loaded.values()] == ["openvino_model.blob", "openvino_model.bin"]
    assert pipeline_properties(tmp_path, shapes, emulate=True)["NPUW_DEVICES"] == "CPU"


@pytest.mark.deep
@pytest.mark.truth
def test_smollm2_answers_and_holds_at_its_boundaries(new_folder: Callable[[str], Path]) -> None:
    downloads = Path(__file__).resolve().parents[1] / "artifacts" / ".downloads"
    model = import_model(CatalogName("smollm2-135m"), new_folder("smollm2"), downloads)
    quantized = quantize_model(
        export_hub(model, new_folder("hub")), "w8-sym", new_folder("quantized"), lambda done, total: None
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH_VARIABLE, "off")
        package = OpenVinoNpuBackend().compile_package(quantized, {"npu_platform": "4000"}, new_folder("npu"))
    pipeline = OpenVinoNpu().pipeline(package.folder, package.settings)
    assert pipeline.chat("What is the capital of France?", 20) == "The capital of France is Paris."
    tokens = np.array(pipeline.encode("The lighthouse keeper wrote a letter every morning. " * 120), np.int64)
    found = at_boundaries(package, tokens[:1025])
    assert [each.prompt_tokens for each in found] == [1, 2, 1023, 1024]
    assert largest_kl(found) < CLOSE
