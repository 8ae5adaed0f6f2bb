"""A build whose packages all fail names the weights that are to blame."""

import dataclasses
import io
import shutil
from pathlib import Path

import onnx_ir as ir
import pytest
from rich.console import Console

from export.model import Model
from quantize.hub_weights import quantized_weights
from quantize.weight import digest_weights
from tapeout.build import Build, build
from tapeout.stage_key import Provenance
from tapeout.store import Store
from tapeout.values import from_json
from targets.status import Verdict
from tests.test_quantize_diagnose import break_weight
from tests.tiny_build import Heard, bench, request
from validate.render_html import render_html
from validate.render_markdown import render_markdown
from validate.render_terminal import render_terminal
from validate.report import Report, read_report

BROKEN = "model.layers.1.self_attn.v_proj.weight"


def swap_weight(store: Store, key: str, name: str, factor: float) -> None:
    """Put in the place of a stored quantized hub the same with one weight's scales multiplied."""
    record = store.lookup(key)
    assert record is not None
    quantized = from_json("quantize.quantizer:QuantizedModel", dict(record.value), store.object_path(record.object))
    with store.scratch() as scratch:
        out = scratch / "out"
        shutil.copytree(quantized.folder, out)
        for path in (out, *out.iterdir()):
            path.chmod(0o755)
        for path in out.glob("model.*"):
            path.unlink()
        broken = break_weight(quantized, name, out, factor)
        digests = {found: weight.digest() for found, _, weight in quantized_weights(ir.load(broken.graph))}
        weights = {each: digests[each] for each in quantized.weights}
        value = {**record.value, "weights": weights, "weights_digest": digest_weights(weights)}
        store.record_path(key).unlink()
        known = {field.name: getattr(record, field.name) for field in dataclasses.fields(Provenance)}
        store.publish(key, out, Provenance(**{**known, "value": value}))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("diagnosis")


@pytest.fixture(scope="module")
def sound(work: Path, tiny_model: Model) -> tuple[Build, Heard]:
    heard = Heard()
    wanted = request(bench(work, int8=0.05), tiny_model.folder, "int8")
    return build(wanted, Store(work / "store"), work / "sound", heard), heard


@pytest.fixture(scope="module")
def broken(work: Path, sound: tuple[Build, Heard], tiny_model: Model) -> Build:
    """The same build where one weight was scaled by 8 after quantization."""
    store = Store(work / "store")
    key = next(stage.key for stage in sound[0].report.stages if stage.name.startswith("quantize"))
    swap_weight(store, key, BROKEN, 8.0)
    return build(request(bench(work, int8=0.05), tiny_model.folder, "int8"), store, work / "broken", Heard())


def shown(report: Report, drawn: bool) -> str:
    stream = io.StringIO()
    render_terminal(report, Console(file=stream, width=400, force_terminal=drawn), None)
    return stream.getvalue()


def test_a_build_that_passes_diagnoses_nothing(sound: tuple[Build, Heard]) -> None:
    built, heard = sound
    assert built.report.devices[0].verdict is Verdict.PASS
    assert built.report.diagnoses == ()
    assert not [name for name in heard.ran if name.startswith("diagnose")]


def test_a_weight_scaled_by_8_after_quantization_is_named_by_the_report(broken: Build) -> None:
    report = broken.report
    assert report.devices[0].verdict is Verdict.FAIL
    assert [(found.device, found.backend) for found in report.diagnoses] == [
        ("cpu", "openvino"),
        ("cpu", "onnxruntime"),
    ]
    for found in report.diagnoses:
        assert found.broken == (BROKEN,)
        blamed = next(weight for weight in found.weights if weight.name == BROKEN)
        assert blamed.error > 5
        assert blamed.kl_restored is not None
        assert blamed.kl_restored < 0.5 * found.kl
    assert read_report(broken.folder / "report.json").diagnoses == report.diagnoses
    for text in (render_html(report), shown(report, True), shown(report, False)):
        assert f"{BROKEN} is broken: its outputs are off by" in text
    assert "is broken: its outputs are off by" in render_markdown(report)


def test_the_diagnosis_is_one_stored_stage(broken: Build, work: Path, tiny_model: Model) -> None:
    heard = Heard()
    wanted = request(bench(work, int8=0.05), tiny_model.folder, "int8")
    again = build(wanted, Store(work / "store"), work / "broken", heard)
    assert heard.ran == []
    assert [name for name in heard.cached if name.startswith("diagnose")] == ["diagnose w8-sym"]
    assert again.report.diagnoses == broken.report.diagnoses


def test_rounding_that_costs_too_much_is_told_from_a_broken_weight(
    sound: tuple[Build, Heard], work: Path, tiny_model: Model, tmp_path: Path
) -> None:
    assert sound[0].report.diagnoses == ()
    wanted = request(bench(tmp_path, int4=0.0), tiny_model.folder, "int4")
    report = build(wanted, Store(work / "store"), tmp_path / "out", Heard()).report
    found = report.diagnoses[0]
    assert (found.recipe, found.broken) == ("w4-sym-g32", ())
    assert len(found.weights) == 5
    assert "no weight is broken, rounding itself costs too much" in shown(report, False)
