"""The HTP's runtime: the simulator here, a Snapdragon elsewhere, and no execution provider at all."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from compile.package import Package
from compile.qnn_backend import QnnBackend
from targets.errors import DeviceMissing, IntegrityError
from targets.status import Status
from tests.conftest import Quantized
from tests.htp_simulator import needs_htp, parse
from validate.fidelity import log_softmax
from validate.qnn_finalize import finalize, main
from validate.qnn_runtime import PROVIDER, Graphs, Qnn
from validate.runtime import DEPLOYED, WEIGHTS

pytestmark = needs_htp
OPTIONS = {"soc_model": 60, "htp_arch": 73, "context": 48, "chunk": 16}


@pytest.fixture(scope="module")
def package(tiny_quantized: Quantized, tmp_path_factory: pytest.TempPathFactory) -> Package:
    return QnnBackend().compile_package(tiny_quantized["w4-sym-g32"], OPTIONS, tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def simulator() -> Qnn:
    return Qnn()


def test_here_the_device_is_simulated(package: Package, simulator: Qnn) -> None:
    assert simulator.evidence is Status.SIMULATED
    assert simulator.pipeline(package.folder, package.settings) is None
    assert set(simulator.versions()) == {"onnxruntime", "onnxruntime-qnn", "qairt"}
    assert simulator.versions()["qairt"] == package.requires["qairt"]
    assert simulator.coverage is not None
    assert simulator.coverage.tokens >= 64


def test_simulator_and_cpu_agree_over_chunks_padding_and_single_tokens(package: Package, simulator: Qnn) -> None:
    tokens = np.random.default_rng(4).integers(0, 500, 30)
    sessions = [simulator.session(package.folder, package.settings, setting) for setting in (WEIGHTS, DEPLOYED)]
    parts = [tokens[:24], *tokens[24:, None]]
    cpu, htp = (log_softmax(np.concatenate([session.step(part) for part in parts])) for session in sessions)
    divergence = (np.exp(cpu, dtype=np.float64) * (cpu - htp)).sum(axis=-1)
    assert 0 < divergence.max() < 1e-4  # the HTP computes in float16, so something differs
    assert (cpu.argmax(-1) == htp.argmax(-1)).mean() > 0.9


def test_every_operator_and_every_weight_is_on_the_htp(package: Package, simulator: Qnn) -> None:
    placements = simulator.placement(package.folder, package.settings)
    stored = (package.folder / "model.onnx.data").stat().st_size
    assert [placement.session for placement in placements] == ["prefill", "decode"]
    for placement in placements:
        assert (placement.requested, placement.elsewhere) == (PROVIDER, {})
        # ONNX Runtime computes the reshape of the embedding table ahead.
        assert placement.operators == {PROVIDER: package.checks["operators"] - 1}
        assert set(placement.weight_bytes) == {PROVIDER}
        assert placement.weight_bytes[PROVIDER] == pytest.approx(stored, rel=0.1)
    assert simulator.placement(package.folder, package.settings) == placements


def test_an_operator_that_stays_on_the_cpu_is_reported(package: Package, simulator: Qnn, tmp_path: Path) -> None:
    text = """g (float[1,4,64] x, float[1,4,16,16] pk, float[1,4,16,16] pv) => (float[1,4,64] z) {
        q = Mul(x, x)
        y, nk, nv = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=4>(q, x, x, pk, pv, length, total)
        z = Sigmoid(y)
    }"""
    constants = {"length": np.array([19], np.int32), "total": np.array(20, np.int32)}
    shutil.copyfile(package.folder / "htp.json", tmp_path / "htp.json")
    for name in ("prefill", "decode"):
        onnx.save(parse(text, constants), tmp_path / f"{name}.onnx")
    for placement in simulator.placement(tmp_path, package.settings):
        assert placement.elsewhere == {"GroupQueryAttention": 1}
        assert placement.operators == {PROVIDER: 2, "CPUExecutionProvider": 1}


def test_a_saved_context_cannot_be_opened_in_the_simulator(package: Package, simulator: Qnn) -> None:
    """The reason why the sources are compiled again here; should this fail one day, open the contexts instead."""
    with pytest.raises(Exception, match="NOT_SUPPORTED"):
        simulator.open(package.folder / "decode_ctx.onnx", package.settings)


def test_without_the_execution_provider_only_the_weights_are_measured(package: Package) -> None:
    runtime = Qnn()
    runtime.__dict__["device"] = None  # as where the wheel is not installed
    assert runtime.evidence is Status.PREPARED
    assert runtime.placement(package.folder, package.settings) == ()
    assert set(runtime.versions()) == {"onnxruntime"}
    assert runtime.session(package.folder, package.settings, WEIGHTS).context == 48
    with pytest.raises(DeviceMissing, match="onnxruntime-qnn is not installed"):
        runtime.session(package.folder, package.settings, DEPLOYED)


class Snapdragon(Qnn):
    """A machine with an NPU, as far as a machine without one can be it: what would be opened is simulated."""

    def __init__(self) -> None:
        super().__init__()
        self.simulated = self.device
        self.__dict__["device"] = SimpleNamespace(device=SimpleNamespace(type=SimpleNamespace(name="NPU")))
        self.files: list[str] = []

    def open(self, path: Path, settings: Any) -> Any:
        self.files.append(path.name)
        simulator = Qnn()
        simulator.__dict__["device"] = self.simulated
        return simulator.open(path.with_name(path.name.replace("_ctx", "")), settings)


def copy_with_qairt(package: Package, qairt: str, folder: Path) -> Path:
    copy = shutil.copytree(package.folder, folder / "copy")
    stated = json.loads((copy / "htp.json").read_text())
    stated["requires"]["qairt"] = qairt
    (copy / "htp.json").write_text(json.dumps(stated))
    return copy


def test_a_snapdragon_opens_the_contexts(package: Package) -> None:
    runtime = Snapdragon()
    assert runtime.evidence is None
    assert finalize(package.folder, runtime) == f"the contexts made with QAIRT {package.requires['qairt']} run here"
    assert runtime.files == ["prefill_ctx.onnx", "decode_ctx.onnx"]
    pipeline = runtime.pipeline(package.folder, package.settings)
    assert pipeline is not None
    assert len(pipeline.generate([1, 2, 3], 2, stop=False).tokens) == 2
    graphs = Graphs.read(package.folder)
    (held,) = runtime.weights(graphs, "decode").values()
    assert held == sum(Qnn().weights(graphs, "decode").values())


def test_a_snapdragon_with_another_qairt_compiles_afresh(package: Package, tmp_path: Path) -> None:
    runtime = Snapdragon()
    assert "2.47 in the package: the graphs were compiled afresh" in finalize(
        copy_with_qairt(package, "2.47", tmp_path), runtime
    )
    assert runtime.files == ["prefill.onnx", "decode.onnx"]


def test_what_finalize_refuses(package: Package, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DeviceMissing, match="no Hexagon NPU"):
        finalize(package.folder, Qnn())
    assert main(package.folder) == DeviceMissing.exit_code
    assert capsys.readouterr().out.startswith("error: this machine has no Hexagon NPU")
    copy = shutil.copytree(package.folder, tmp_path / "copy")
    with (copy / "prefill_ctx_qnn.bin").open("r+b") as stream:
        stream.write(b"\0\1\2\3")
    with pytest.raises(IntegrityError, match=r"prefill_ctx_qnn\.bin differs"):
        finalize(copy, Snapdragon())


def test_the_script_in_the_package_says_that_this_is_not_the_device(package: Package) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", package.folder / "finalize.sh"],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[0]) == (
        DeviceMissing.exit_code,
        "error: this machine has no Hexagon NPU under the QNN execution provider",
    )
