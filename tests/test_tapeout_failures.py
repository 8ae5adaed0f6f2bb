"""One package that cannot be made leaves the others going."""

import dataclasses
from pathlib import Path

import pytest

from export.model import Model
from tapeout.build import build
from tapeout.manifest import read_manifest
from tapeout.store import Store
from targets.errors import NotForModel, StageFailed
from targets.status import Verdict
from targets.target import Target
from tests.tiny_build import Heard, bench, request

RAGGED = "w4-sym-g256"  # no tiny weight has 256 input channels


def with_schemes(target: Target, *schemes: tuple[str, ...]) -> Target:
    """The target with other ladders for its CPU's runtimes."""
    cpu, *others = target.devices
    runtimes = tuple(dataclasses.replace(each, schemes=own) for each, own in zip(cpu.runtimes, schemes, strict=True))
    return dataclasses.replace(target, devices=(dataclasses.replace(cpu, runtimes=runtimes), *others))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One for all: what they have in common is built once."""
    return Store(tmp_path_factory.mktemp("failures") / "store")


@pytest.mark.parametrize("ladder", [(RAGGED, "w8-sym"), (RAGGED,)], ids=["another scheme", "nothing else"])
def test_the_other_packages_are_built_and_the_report_names_the_failure(
    tiny_model: Model, store: Store, tmp_path: Path, ladder: tuple[str, ...]
) -> None:
    target = with_schemes(bench(tmp_path), ("w8-sym",), ladder)
    built = build(request(target, tiny_model.folder), store, tmp_path / "out", Heard())
    openvino, onnxruntime = built.report.devices[0].runtimes
    assert openvino.verdict is Verdict.PASS
    (failure,) = onnxruntime.failures
    assert (failure.scheme, failure.stage, failure.error) == (RAGGED, "quantize", "NotForModel")
    assert "groups of 256 divide" in failure.what
    assert [type(error) for error in built.errors] == [NotForModel]
    if len(ladder) > 1:
        assert (onnxruntime.verdict, onnxruntime.shipped and onnxruntime.shipped.scheme) == (Verdict.PASS, "w8-sym")
    else:
        assert (onnxruntime.verdict, onnxruntime.folder) == (Verdict.FAIL, None)
        assert failure.what in onnxruntime.reason
        assert onnxruntime.next_step == failure.help
    assert "packages/cpu-openvino" in read_manifest(built.folder)["packages"]


def test_when_every_package_fails_the_command_fails(tiny_model: Model, store: Store, tmp_path: Path) -> None:
    target = with_schemes(bench(tmp_path), (RAGGED,), (RAGGED,))
    with pytest.raises(StageFailed, match="groups of 256"):
        build(request(target, tiny_model.folder), store, tmp_path / "out", Heard())
    assert not (tmp_path / "out").exists()


def test_a_package_that_failed_its_gates_is_kept_apart(tiny_model: Model, store: Store, tmp_path: Path) -> None:
    target = with_schemes(bench(tmp_path), ("w4-sym-g32",), ("w8-sym",))
    built = build(request(target, tiny_model.folder), store, tmp_path / "out", Heard())
    openvino = built.report.devices[0].runtimes[0]
    assert (openvino.verdict, openvino.folder) == (Verdict.FAIL, "rejected/cpu-openvino")
    assert openvino.shipped is None
    manifest = read_manifest(built.folder)
    assert manifest["packages"]["rejected/cpu-openvino"]["verdict"] == "FAIL"
    assert sorted(path.name for path in (built.folder / "packages").iterdir()) == ["cpu-onnxruntime"]
