"""16-bit integer activations for the HTP: ranges from calibration text, the graph, its weights, and the simulator."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from compile.package import Package
from compile.qnn_backend import QnnBackend
from compile.qnn_graphs import check_sources, write_sources
from compile.qnn_options import check_options, needs_ranges
from quantize.activation_ranges import ActivationRanges, LinearRanges, measure_ranges
from quantize.calibration import TOKENS, Calibration
from quantize.quantizer import QuantizedModel
from tapeout.jobs import Request
from tapeout.planning import make_plan
from targets.errors import StageFailed, UsageError
from targets.probe import probe_host
from targets.target import load_target
from tests.conftest import Quantized
from tests.htp_simulator import needs_htp
from validate.fidelity import log_softmax
from validate.onnx_activations import with_float_activations
from validate.qnn_runtime import PROVIDER, Qnn
from validate.runtime import DEPLOYED, WEIGHTS

OPTIONS: Mapping[str, str | int] = {
    "soc_model": 60,
    "htp_arch": 73,
    "context": 48,
    "chunk": 16,
    "activations": "uint16",
}
SIZES = {"prefill": 16, "decode": 1}
LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def calibrate(quantized: QuantizedModel, folder: Path) -> ActivationRanges:
    tokens = np.random.default_rng(0).integers(0, 500, (8, 40)).astype("<i4")
    np.save(folder / TOKENS, tokens)
    return measure_ranges(quantized, Calibration(folder, "self", "digest", 8, 40), folder, lambda done, total: None)


@pytest.fixture(scope="module")
def ranges(tiny_quantized: Quantized, new_folder: Callable[[str], Path]) -> ActivationRanges:
    return calibrate(tiny_quantized["w4-sym-cw"], new_folder("ranges"))


def test_every_linear_layer_but_the_head_has_a_range(ranges: ActivationRanges) -> None:
    found = ranges.load()
    assert len(found) == 2 * len(LAYERS)
    assert {name.split(".")[-2] for name in found} == set(LAYERS)
    first = "model.layers.0.self_attn"
    assert found[f"{first}.q_proj.weight"].inputs == found[f"{first}.v_proj.weight"].inputs
    assert all(low < 0 < high for both in found.values() for low, high in both)
    assert (ranges.calibration, ranges.tokens) == ("digest", 320)


@pytest.mark.parametrize("scheme", ["w4-sym-cw", "w8-sym", "w4-sym-g32"])
def test_integers_go_in_and_out_and_the_weights_stay_what_they_are(
    tiny_quantized: Quantized, ranges: ActivationRanges, tmp_path: Path, scheme: str
) -> None:
    quantized = tiny_quantized[scheme]
    packed = write_sources(quantized, 48, SIZES, tmp_path, ranges.load())
    checks, digest = check_sources(quantized, packed, tmp_path)
    assert digest == quantized.weights_digest
    assert (checks["integer_matmuls"], checks["quantized_matmuls"]) == (14, 15)
    for node in ir.load(tmp_path / "prefill.onnx").graph:
        if node.op_type == "MatMul":
            activation, weight = (value.producer() for value in node.inputs if value is not None)
            assert activation is not None
            assert weight is not None
            assert activation.inputs[1] is not None
            assert [value.dtype for value in activation.inputs if value is not None][2] == ir.DataType.UINT16
            # No zero points, in blocks: the two ways in which the HTP reads such weights rightly.
            assert (len(weight.inputs), weight.attributes["block_size"].as_int() >= 16) == (2, True)
            (reader,) = (user for user, _ in node.outputs[0].uses())
            assert reader.op_type == "QuantizeLinear"


def test_a_changed_code_is_found(tiny_quantized: Quantized, ranges: ActivationRanges, tmp_path: Path) -> None:
    quantized = tiny_quantized["w4-sym-cw"]
    packed = write_sources(quantized, 48, SIZES, tmp_path, ranges.load())
    tensor = ir.load(tmp_path / "decode.onnx").graph.initializers["model.layers.1.mlp.up_proj.weight.codes"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    data = bytearray((tmp_path / "model.onnx.data").read_bytes())
    data[tensor.offset or 0] ^= 1
    (tmp_path / "model.onnx.data").write_bytes(data)
    with pytest.raises(StageFailed, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds other numbers"):
        check_sources(quantized, packed, tmp_path)


def test_without_its_activations_the_graph_is_the_float_one(
    tiny_quantized: Quantized, ranges: ActivationRanges, tmp_path: Path
) -> None:
    """What `weights` measures: nothing that rounds is left, and everything else is."""
    write_sources(tiny_quantized["w8-sym"], 48, SIZES, tmp_path, ranges.load())
    whole = (tmp_path / "decode.onnx").read_bytes()
    stripped = onnx.load_from_string(with_float_activations(whole)).graph
    rounding = [node for node in onnx.load_from_string(whole).graph.node if node.name.endswith("/activation")]
    # One pair for the input that q, k and v share, one each for o, gate with up, and down; one for each of 7 outputs.
    assert len(rounding) == 2 * 2 * (4 + 7)
    assert len(stripped.node) == len(onnx.load_from_string(whole).graph.node) - len(rounding)
    made = {name for node in stripped.node for name in node.output} | {value.name for value in stripped.initializer}
    made |= {value.name for value in stripped.input}
    assert {name for node in stripped.node for name in node.input if name} <= made
    float_graph = tmp_path / "float"
    float_graph.mkdir()
    write_sources(tiny_quantized["w8-sym"], 48, SIZES, float_graph)
    plain = (float_graph / "decode.onnx").read_bytes()
    assert with_float_activations(plain) == plain


def test_a_range_without_its_layer_and_zero_points_are_refused(
    tiny_quantized: Quantized, ranges: ActivationRanges, tmp_path: Path
) -> None:
    more = {**ranges.load(), "model.layers.9.mlp.up_proj.weight": LinearRanges((-1.0, 1.0), (-1.0, 1.0))}
    with pytest.raises(StageFailed, match=r"no linear layer model\.layers\.9\.mlp\.up_proj\.weight"):
        write_sources(tiny_quantized["w8-sym"], 48, SIZES, tmp_path, more)
    with pytest.raises(StageFailed, match="has zero points, which the HTP misreads"):
        write_sources(tiny_quantized["w4-asym-g32"], 48, SIZES, tmp_path, ranges.load())


def test_asymmetric_weights_are_refused_before_any_work() -> None:
    check_options(OPTIONS, "w4-sym-g64+gptq")
    check_options({**OPTIONS, "activations": "float16"}, "w4-asym-g64")
    with pytest.raises(UsageError, match="not legal on qualcomm-htp-uint16: symmetric must be") as caught:
        check_options(OPTIONS, "w4-asym-g64+gptq")
    assert "the nearest legal scheme is 'w4-sym-g64'" in caught.value.help
    assert (needs_ranges(OPTIONS), needs_ranges({**OPTIONS, "activations": "float16"})) == (True, False)


def request(schemes: tuple[str, ...], activations: str) -> Request:
    """A build of snapdragon-x whose NPU computes with these activations."""
    target = load_target("snapdragon-x")
    npu = next(device for device in target.devices if device.name == "npu")
    options = {**npu.runtimes[0].options, "activations": activations}
    runtime = dataclasses.replace(npu.runtimes[0], options=options, schemes=schemes)
    device = dataclasses.replace(npu, runtimes=(runtime,))
    return Request(dataclasses.replace(target, devices=(device,)), "smollm2-135m", "ladder", probe_host(), "downloads")


def test_the_option_of_a_target_adds_the_stage_that_finds_ranges() -> None:
    jobs = make_plan(request(("w4-sym-g64", "w8-sym"), "uint16")).jobs()
    found = [job for job in jobs if job.stage == "ranges"]
    assert [job.label for job in found] == ["w4-sym-g64", "w8-sym"]
    assert [set(job.inputs) for job in found] == [{"quantized", "calibration"}] * 2
    assert {"ranges", "quantized"} == set(next(job for job in jobs if job.stage == "compile").inputs)
    assert "ranges" not in {job.stage for job in make_plan(request(("w4-sym-g64",), "float16")).jobs()}
    with pytest.raises(UsageError, match="not legal on qualcomm-htp-uint16"):
        make_plan(request(("w4-asym-g64",), "uint16"))
    with pytest.raises(UsageError, match="unknown kind of activations 'uint8'"):
        make_plan(request(("w4-sym-g64",), "uint8"))


def test_without_ranges_nothing_is_compiled(tiny_quantized: Quantized, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="16-bit activations need calibrated ranges"):
        QnnBackend().compile_package(tiny_quantized["w8-sym"], OPTIONS, tmp_path)


@pytest.fixture(scope="module")
def package(tiny_quantized: Quantized, ranges: ActivationRanges, new_folder: Callable[[str], Path]) -> Package:
    return QnnBackend().compile_package(tiny_quantized["w4-sym-cw"], OPTIONS, new_folder("package"), ranges)


@needs_htp
def test_the_simulator_computes_with_integers_what_the_cpu_does_without(package: Package) -> None:
    runtime = Qnn()
    for placement in runtime.placement(package.folder, package.settings):
        assert (set(placement.operators), placement.elsewhere) == ({PROVIDER}, {})
    assert package.requires["activations"] == "uint16, calibrated on 320 tokens"
    tokens = np.random.default_rng(0).integers(0, 500, (8, 40))[0, :20]  # of the calibration, so that nothing clips
    sessions = [runtime.session(package.folder, package.settings, setting) for setting in (WEIGHTS, DEPLOYED)]
    cpu, htp = (
        log_softmax(np.concatenate([session.step(part) for part in (tokens[:18], tokens[18:19], tokens[19:])]))
        for session in sessions
    )
    divergence = (np.exp(cpu, dtype=np.float64) * (cpu - htp)).sum(axis=-1)
    assert 0 < divergence.max() < 1e-4
    assert (cpu.argmax(-1) == htp.argmax(-1)).mean() > 0.9
