"""The Ryzen AI hand-off without its device: the checkpoint's own weights on this CPU, and no pretence of more."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from compile.package import Package
from compile.ryzen_ai_backend import RyzenAiBackend
from export.hub import OnnxModel
from export.parity import HubSession
from quantize.hub_weights import quantized_weights
from targets.errors import DeviceMissing
from targets.status import Status
from tests.conftest import Quantized
from validate.lowered_session import LoweredSession
from validate.runtime import DEPLOYED, WEIGHTS
from validate.ryzen_ai_runtime import INSTALLATION, RyzenAi

TOKENS = np.arange(3, 35, dtype=np.int64)


@pytest.fixture(autouse=True)
def no_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(INSTALLATION, raising=False)


@pytest.fixture(scope="module")
def package(tiny_quantized: Quantized, tmp_path_factory: pytest.TempPathFactory) -> Package:
    return RyzenAiBackend().compile_package(tiny_quantized["w4-asym-g32"], {}, tmp_path_factory.mktemp("ryzen-ai"))


def logits(package: Package, folder: Path) -> np.ndarray:
    session = RyzenAi().session(folder, package.settings, WEIGHTS)
    return np.concatenate([session.step(TOKENS[:20]), session.step(TOKENS[20:])])


def test_the_weights_are_those_of_the_quantized_hub_but_for_the_head(
    package: Package, tiny_quantized: Quantized, tmp_path: Path
) -> None:
    """The quantized hub with the head rounded, computed by ONNX Runtime as the hub's own session does."""
    import onnx_ir as ir

    from compile.ryzen_ai_head import round_head

    quantized = tiny_quantized["w4-asym-g32"]
    hub = ir.load(quantized.graph)
    round_head(hub)
    ir.save(hub, tmp_path / "model.onnx", external_data="model.onnx.data")
    names = [name for name, _, _ in quantized_weights(ir.load(tmp_path / "model.onnx"))]
    assert sorted(names) == sorted([*quantized.weights, "lm_head.weight"])
    expected = HubSession(tmp_path / "model.onnx", quantized.facts).step(TOKENS[None])[0]
    assert np.abs(logits(package, package.folder) - expected).max() < 1e-4


def test_the_session_reads_the_checkpoint_and_not_only_the_graph(package: Package, tmp_path: Path) -> None:
    """One byte of a packed weight changed: were the graph's own weights used, nothing would follow from it."""
    from export.safetensors_check import check_safetensors

    copy = tmp_path / "package"
    shutil.copytree(package.folder, copy)
    tensors = copy / "quark" / "model.safetensors"
    entries = check_safetensors(tensors)
    data = bytearray(tensors.read_bytes())
    start = len(data) - max(entry.end for entry in entries.values())
    data[start + entries["model.layers.0.mlp.down_proj.weight"].begin] ^= 0x77
    tensors.write_bytes(data)
    assert np.abs(logits(package, copy) - logits(package, package.folder)).max() > 1e-4


def test_a_sequence_can_be_cut_back_and_started_again(package: Package) -> None:
    session = RyzenAi().session(package.folder, package.settings, WEIGHTS)
    assert isinstance(session, LoweredSession)
    first = session.step(TOKENS)
    session.rewind(20)
    assert np.abs(session.step(TOKENS[20:]) - first[20:]).max() < 1e-5
    session.reset()
    assert np.abs(session.step(TOKENS) - first).max() < 1e-5


def test_without_amds_installation_it_stays_prepared(package: Package) -> None:
    runtime = RyzenAi()
    assert runtime.evidence is Status.PREPARED
    assert runtime.pipeline(package.folder, package.settings) is None
    assert runtime.placement(package.folder, package.settings) == ()
    with pytest.raises(DeviceMissing, match="AMD NPU") as missing:
        runtime.session(package.folder, package.settings, DEPLOYED)
    assert "finalize.ps1" in missing.value.help


def test_with_the_installation_the_generated_model_is_what_ships(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_hub: OnnxModel
) -> None:
    """The folder that the generator writes is an ONNX Runtime GenAI model; the package's own stands in for it here."""
    monkeypatch.setenv(INSTALLATION, "C:\\RyzenAI\\1.8.0")
    runtime = RyzenAi()
    assert runtime.evidence is None
    with pytest.raises(DeviceMissing):
        runtime.session(package.folder, package.settings, DEPLOYED)
    copy = tmp_path / "package"
    shutil.copytree(package.folder, copy)
    shutil.copytree(copy / "oga", copy / "generated")
    found = runtime.session(copy, package.settings, DEPLOYED).step(TOKENS)
    assert found.shape == (len(TOKENS), tiny_hub.facts.vocab_size)
    pipeline = runtime.pipeline(copy, package.settings)
    assert pipeline is not None
    assert len(pipeline.generate([3, 4, 5], 4, stop=False).tokens) == 4
