"""The whole flow on a tiny model: real exporter, real quantizer, real runtimes, real child processes."""

import dataclasses
import io
import json
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from export.digest import list_files
from export.source import LocalFolder, source_identity
from tapeout.bom import BOM, check_bom
from tapeout.build import Build, build
from tapeout.foresee import foresee, look
from tapeout.jobs import Request
from tapeout.manifest import SIGNATURE, differences, read_manifest
from tapeout.outcome import recall
from tapeout.planning import make_plan
from tapeout.provenance import PROVENANCE
from tapeout.revalidate import revalidate
from tapeout.sign import Signer
from tapeout.soaking import soak_bundle
from tapeout.store import Store
from tapeout.unchanged import say_unchanged
from tapeout.verify import Demands, Seal, inspect_bundle
from targets.errors import IntegrityError, StageFailed, UsageError
from targets.status import Verdict
from tests.tiny_build import LATENCY, Heard, bench, request
from tests.tiny_bundle import new_key
from tests.tiny_folder import spread_vectors, write_folder
from validate.render_terminal import plain_lines
from validate.report import read_report
from validate.soak_figures import SoakPlan

NewFolder = Callable[[str], Path]
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
}


@pytest.fixture(scope="session")
def source(new_folder: NewFolder) -> Path:
    """A tiny Llama as a user would have it."""
    folder = write_folder(new_folder("tiny"), **SIZES)
    spread_vectors(folder)
    return folder


@pytest.fixture(scope="session")
def work(new_folder: NewFolder) -> Path:
    """A folder with a store and bundles, shared by the tests of this file."""
    return new_folder("work")


@pytest.fixture(scope="session")
def first(work: Path, source: Path) -> tuple[Build, Heard]:
    """The first build: everything runs."""
    heard = Heard()
    return build(request(bench(work), source), Store(work / "store"), work / "out", heard), heard


def test_the_first_build_runs_every_stage(first: tuple[Build, Heard]) -> None:
    stages = [name.split()[0] for name in first[1].ran]
    assert {stage: stages.count(stage) for stage in stages} == {
        "import": 1,
        "export": 1,
        "golden": 1,
        "quantize": 2,
        "compile": 4,
        "screen": 4,
        "measure": 2,
    }
    assert [note.split(" fails: ")[0] for note in first[1].notes] == [
        "w4-sym-g32 for cpu-openvino",
        "w4-sym-g32 for cpu-onnxruntime",
    ]
    assert first[1].cached == []


def test_int8_ships_where_int4_fails_and_the_report_says_why(first: tuple[Build, Heard]) -> None:
    report = first[0].report
    cpu, npu = report.devices
    assert (cpu.verdict, npu.verdict, report.verdict) == (Verdict.PASS, Verdict.INCOMPLETE, Verdict.INCOMPLETE)
    for runtime in cpu.runtimes:
        small, large = runtime.candidates
        assert (small.scheme, small.verdict, small.ships) == ("w4-sym-g32", Verdict.FAIL, False)
        assert "kl_mean" in small.why
        assert (large.scheme, large.verdict, large.ships) == ("w8-sym", Verdict.PASS, True)
        assert "w4-sym-g32 does not" in large.why
    assert "npu" in report.headline
    assert npu.runtimes[0].next_step == "Write one."


def test_both_runtimes_hold_the_same_weights_and_say_nearly_the_same(first: tuple[Build, Heard]) -> None:
    openvino, onnxruntime = first[0].report.devices[0].runtimes
    for ours, theirs in zip(openvino.candidates, onnxruntime.candidates, strict=True):
        assert ours.weights_digest == theirs.weights_digest
        kl = [each.measurement.fidelity["weights"].kl_mean for each in (ours, theirs)]
        assert abs(kl[0] - kl[1]) < 1e-3


def test_every_figure_is_there(first: tuple[Build, Heard]) -> None:
    for runtime in first[0].report.devices[0].runtimes:
        small, large = runtime.candidates
        assert (set(small.measurement.fidelity), small.measurement.latency) == ({"weights"}, ())
        for candidate in (large,):
            measured = candidate.measurement
            assert set(measured.fidelity) == {"weights", "deployed"}
            assert [latency.prompt_tokens for latency in measured.latency] == [8, 16]
            assert all(len(latency.ttft_ms.samples) == 3 for latency in measured.latency)
            assert measured.loading is not None
            assert measured.loading.peak_memory_bytes > 10_000_000
            assert measured.restarts is not None
            assert len(measured.restarts.processes) == LATENCY.restarts
            assert measured.conditions is not None
            assert measured.roofline is not None
            assert [point.prompt_tokens for point in measured.roofline.points] == [8, 16]
            assert measured.roofline.weight_bytes < candidate.package_bytes
            assert measured.drift is not None
            assert [each.session for each in measured.placements] == ["model"]
            assert all(list(each.operators) == [each.requested] for each in measured.placements)
            assert all(each.weight_bytes[each.requested] > 10_000 for each in measured.placements)
            assert measured.chat is not None
            assert measured.environment
            assert len(measured.answers) == 2


def test_the_bundle_is_whole_and_stands_alone(first: tuple[Build, Heard], tmp_path: Path) -> None:
    bundle = first[0].folder
    assert sorted(path.name for path in (bundle / "packages").iterdir()) == ["cpu-onnxruntime", "cpu-openvino"]
    manifest = read_manifest(bundle)
    assert differences(bundle, manifest) == []
    for name in ("report.json", "report.html", "report.md", "junit.xml", "golden/golden.npz"):
        assert name in manifest["files"]
    assert read_report(bundle / "report.json") == first[0].report
    copy = shutil.copytree(bundle, tmp_path / "copy")
    again = revalidate(copy, tmp_path / "again", lambda text: None)
    assert again.devices[0].verdict is Verdict.PASS
    assert (tmp_path / "again" / "report.html").is_file()
    with pytest.raises(UsageError, match="inside the bundle"):
        revalidate(copy, copy / "again", lambda text: None)


def test_the_chain_leads_from_the_source_to_the_packages(first: tuple[Build, Heard], source: Path) -> None:
    found = inspect_bundle(first[0].folder, Demands(source=source_identity(LocalFolder(source))))
    assert found.findings == ()
    stages = [line.split()[0].rstrip(":") for line in found.chain]
    assert stages[:2] == ["import", "export"]
    assert {"quantize", "compile", "golden"} <= set(stages)
    assert "packages/cpu-openvino/" in found.chain[-1] + found.chain[-2]
    assert {held.holds for held in found.held} == {True}
    other = inspect_bundle(first[0].folder, Demands(source={"sha256": "0" * 64}))
    assert "made from another model" in other.findings[0]


def test_the_bill_of_materials_has_a_model_card_for_every_package(first: tuple[Build, Heard]) -> None:
    bom = json.loads((first[0].folder / BOM).read_text())
    check_bom(bom)
    parts = {each["bom-ref"]: each for each in bom["components"]}
    manifest = read_manifest(first[0].folder)
    for path in manifest["packages"]:
        kl, *_ = parts[path]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
        bounds = kl["confidenceInterval"]
        assert float(bounds["lowerBound"]) <= float(kl["value"]) <= float(bounds["upperBound"])
        listed = {each["name"]: each["hashes"][0]["content"] for each in parts[path]["components"]}
        assert listed == {name: digest for name, digest in manifest["files"].items() if name.startswith(f"{path}/")}
    wheels = {each["name"]: each for each in bom["components"] if each["type"] == "library"}
    assert {"openvino", "onnxruntime-genai", "torch"} <= wheels.keys()
    assert wheels["onnx"]["licenses"] == [{"expression": "Apache-2.0"}]
    assert "timestamp" not in bom["metadata"]
    bom["components"][0]["modelCard"]["bogus"] = 1
    with pytest.raises(StageFailed, match="not CycloneDX"):
        check_bom(bom)


def test_the_provenance_names_every_file_of_every_package_and_what_it_was_made_of(first: tuple[Build, Heard]) -> None:
    statement = json.loads((first[0].folder / PROVENANCE).read_text())
    files = read_manifest(first[0].folder)["files"]
    subjects = {each["name"]: each["digest"]["sha256"] for each in statement["subject"]}
    assert subjects == {path: digest for path, digest in files.items() if path.startswith("packages/")}
    definition = statement["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["source"]["kind"] == "folder"
    assert definition["externalParameters"]["target"]["name"] == "bench"
    resolved = {each["name"]: each for each in definition["resolvedDependencies"]}
    assert len(resolved["openvino"]["digest"]["recordSha256"]) == 64
    assert "imported/model.safetensors" in resolved
    assert str(first[0].folder.parent) not in json.dumps(statement)


def test_a_signed_build_verifies_and_stays_signed_while_nothing_changes(
    first: tuple[Build, Heard], work: Path, source: Path
) -> None:
    key = new_key()
    demands = Demands(key=key.public_key(), strict=True)
    assert inspect_bundle(first[0].folder, Demands()).seal is Seal.UNSIGNED
    again = build(request(bench(work), source), Store(work / "store"), work / "out", Heard(), Signer(key))
    assert not again.written
    found = inspect_bundle(again.folder, demands)
    assert (found.findings, found.seal) == ((), Seal.TRUSTED)
    unasked = build(request(bench(work), source), Store(work / "store"), work / "out", Heard())
    assert not unasked.written
    assert inspect_bundle(unasked.folder, demands).seal is Seal.TRUSTED
    later = dataclasses.replace(request(bench(work), source), sequence=7)
    numbered = build(later, Store(work / "store"), work / "later", Heard(), Signer(key))
    found = inspect_bundle(numbered.folder, dataclasses.replace(demands, sequence=7))
    assert found.findings == ()
    (first[0].folder / SIGNATURE).unlink()


def test_a_second_build_runs_nothing_and_leaves_the_bundle_alone(
    first: tuple[Build, Heard], work: Path, source: Path
) -> None:
    before = list_files(first[0].folder)
    heard = Heard()
    again = build(request(bench(work), source), Store(work / "store"), work / "out", heard)
    assert heard.ran == []
    assert not again.written
    assert list_files(first[0].folder) == before


def test_a_build_with_nothing_to_do_says_what_the_last_one_came_to(
    first: tuple[Build, Heard], work: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, out, wanted = Store(work / "store"), work / "out", request(bench(work), source)

    def said(request: Request, *, terminal: bool = False) -> tuple[Verdict | None, list[str]]:
        console = Console(file=io.StringIO(), force_terminal=terminal, width=200)
        with console.capture() as captured:
            verdict = say_unchanged(request, store, out, console)
        return verdict, captured.get().splitlines()

    verdict, lines = said(wanted)
    assert verdict is first[0].report.verdict
    summary = list(plain_lines(first[0].report, first[0].folder / "report.html"))
    assert lines[-len(summary) :] == summary
    cached = lines[: -len(summary)]
    assert all(line.endswith("[cached]") for line in cached)
    assert len(cached) == len(first[0].report.stages)
    assert said(wanted, terminal=True)[0] is verdict
    other = dataclasses.replace(wanted.target, assumptions=("Another product.",))
    assert said(dataclasses.replace(wanted, target=other)) == (None, [])
    assert said(dataclasses.replace(wanted, sequence=3)) == (None, [])
    page = first[0].folder / "report.html"
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("Tapeout", "Tapeour", 1), encoding="utf-8")
    assert said(wanted) == (None, [])
    page.write_text(text, encoding="utf-8")
    assert said(wanted) == (verdict, lines)
    plan = make_plan(wanted)
    found = recall(wanted, plan, look(plan, store)[1], store)
    assert found is not None
    # As when another build has made what this one did not need.
    monkeypatch.setattr("tapeout.unchanged.recall", lambda *_: dataclasses.replace(found, skipped={0: "not needed"}))
    assert said(wanted) == (verdict, lines[1:])


def test_a_plan_says_hit_for_what_is_stored_and_why_for_what_is_not(
    first: tuple[Build, Heard], work: Path, source: Path
) -> None:
    assert first[1].ran
    store = Store(work / "store")
    target = bench(work)
    wanted = request(target, source)
    jobs = foresee(make_plan(wanted), store, wanted)
    assert all(job.hit for job in jobs if job.needed)
    skipped = {job.label: job.why for job in jobs if not job.needed}
    assert list(skipped) == ["w4-sym-g32 cpu-openvino", "w4-sym-g32 cpu-onnxruntime"]
    assert all("weights.kl_mean" in why for why in skipped.values())
    other = bench(work)
    cpu = other.devices[0]
    runtimes = tuple(dataclasses.replace(each, schemes=("w8-asym",)) for each in cpu.runtimes)
    changed = dataclasses.replace(other, devices=(dataclasses.replace(cpu, runtimes=runtimes),))
    wanted = request(changed, source)
    foreseen = {f"{job.stage} {job.label}".strip(): job for job in foresee(make_plan(wanted), store, wanted)}
    assert foreseen["export"].hit
    assert not foreseen["quantize w8-asym"].hit
    assert "recipe" in foreseen["quantize w8-asym"].why
    assert foreseen["compile w8-asym openvino"].why == "after quantize w8-asym"


def test_a_damaged_entry_is_set_aside_and_made_again(first: tuple[Build, Heard], work: Path, source: Path) -> None:
    store = Store(work / "store")
    record = next(each for each in store.records("quantize") if each.parameters["recipe"] == "w8-sym")
    path = store.object_path(record.object) / "model.onnx.data"
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    for compiled in list(store.records("compile")):
        if compiled.value["scheme"] == "w8-sym":
            store.record_path(compiled.key).unlink()
    heard = Heard()
    warnings: list[str] = []
    again = build(request(bench(work), source), Store(work / "store", warnings.append), work / "out", heard)
    assert "quantize w8-sym" in heard.ran
    assert warnings
    assert again.report.devices[0].verdict is Verdict.PASS
    assert any((work / "store" / "quarantine").iterdir())


def test_a_build_against_itself_is_the_same_and_says_so(first: tuple[Build, Heard], work: Path, source: Path) -> None:
    asked = dataclasses.replace(request(bench(work), source), baseline=str(first[0].folder))
    heard = Heard()
    again = build(asked, Store(work / "store"), work / "against", heard)
    assert heard.ran == []
    change = again.report.change
    assert change is not None
    assert not change.regressed
    assert {package.weights for package in change.packages if package.backend != "ryzen-ai"} == {"identical"}
    for runtime in again.report.devices[0].runtimes:
        carried = runtime.carried
        assert carried is not None
        found = {gate.name: gate.verdict for gate in carried.gates if gate.name.startswith("regression.")}
        assert found["regression.package_mb"] is Verdict.PASS
        # Two texts and three rounds are too few to say anything, and nothing is said.
        assert found["regression.deployed.kl_mean"] is Verdict.INCOMPLETE
        assert found["regression.ttft_ms.8"] is Verdict.INCOMPLETE
    assert again.report.verdict is Verdict.INCOMPLETE
    read_report(again.folder / "report.json")


def test_a_soak_is_merged_into_the_report_and_judged(first: tuple[Build, Heard], tmp_path: Path) -> None:
    bundle = first[0].folder
    said: list[str] = []
    plan = SoakPlan(minutes=0.03, prompt_tokens=64, new_tokens=8)
    report = soak_bundle(bundle, tmp_path / "out", plan, ("cpu",), said.append)
    assert read_report(tmp_path / "out" / "report.json") == report
    for runtime, before in zip(report.devices[0].runtimes, first[0].report.devices[0].runtimes, strict=True):
        carried, earlier = runtime.carried, before.carried
        assert carried is not None
        assert earlier is not None
        soak = carried.measurement.soak
        assert soak is not None
        assert soak.requests > 3
        assert (soak.prompt_tokens, soak.package_digest) == (64, carried.package_digest)
        assert dataclasses.replace(carried.measurement, soak=None) == earlier.measurement
        assert (runtime.verdict, runtime.folder, len(runtime.candidates)) == (before.verdict, before.folder, 2)
        written = json.loads((tmp_path / "out" / "soak" / f"packages-cpu-{runtime.backend}.json").read_text())
        assert (written["schema_version"], written["requests"]) == (1, soak.requests)
    assert any("tokens/s at first" in line for line in said)
    with pytest.raises(UsageError, match="no device 'npuu'"):
        soak_bundle(bundle, tmp_path / "out", plan, ("npuu",), said.append)


def test_a_changed_bundle_is_noticed_and_replaced(first: tuple[Build, Heard], work: Path, source: Path) -> None:
    report = first[0].folder / "report.md"
    report.write_text(report.read_text() + "\nAll is well.\n")
    with pytest.raises(IntegrityError, match=r"report\.md was changed"):
        revalidate(first[0].folder, work / "nowhere", lambda text: None)
    again = build(request(bench(work), source), Store(work / "store"), work / "out", Heard())
    assert again.written
    assert differences(again.folder, read_manifest(again.folder)) == []


def build_null(work: Path, source: Path, number: int) -> None:
    """A build of the null target in a process of its own."""
    heard = Heard()
    built = build(request("null", source), Store(work / "store"), work / f"out{number}", heard)
    (work / f"ran{number}.json").write_text(json.dumps([heard.ran, built.report.verdict]))


def test_two_builds_at_once_share_the_work(tmp_path: Path, source: Path) -> None:
    context = multiprocessing.get_context("spawn")
    builders = [context.Process(target=build_null, args=(tmp_path, source, number)) for number in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(300)
        assert builder.exitcode == 0
    ran = [json.loads((tmp_path / f"ran{number}.json").read_text()) for number in range(2)]
    everything = sorted(ran[0][0] + ran[1][0])
    assert len(everything) == len(set(everything)) == 7
    assert [verdict for _, verdict in ran] == ["INCOMPLETE", "INCOMPLETE"]
