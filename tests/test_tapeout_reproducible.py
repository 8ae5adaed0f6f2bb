"""Two builds of the same: what has to be the same is, and what is not is named."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tapeout.bundle import write_reports
from tapeout.compare_bundles import compare_bundles
from tapeout.reproduce import refuse_differences
from tapeout.tiers import tiers_of
from targets.errors import NotReproducible
from tests.sample_report import sample_report
from tests.tiny_bundle import WEIGHTS, write_bundle, write_manifest
from tests.tiny_folder import spread_vectors, write_folder
from validate.report import Report, read_report, to_json

BOM = {
    "serialNumber": "urn:uuid:1",
    "metadata": {"component": {"name": "x", "description": "ship"}},
    "components": [
        {"name": "model", "modelCard": {"quantitativeAnalysis": {"performanceMetrics": [{"value": "0.1"}]}}}
    ],
}
# Long enough a context for the texts that every build is measured on.
TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 2048,
    "initializer_range": 0.1,
}
CPU_PACKAGE = {"backend": "openvino", "recipe": "w8-asym"}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report in every form: plots take a second."""
    folder = tmp_path_factory.mktemp("rendered")
    write_reports(sample_report(), folder)
    return folder


@pytest.fixture
def once_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renderings are not made again: the test is about something else."""
    monkeypatch.setattr("tapeout.compare_bundles.rendered_otherwise", lambda folder: [])


def write_pair(folder: Path, rendered: Path, package: Mapping[str, str] = CPU_PACKAGE) -> tuple[Path, Path]:
    """The same bundle twice, as two builds would leave it."""
    files = {WEIGHTS: bytes(100), "golden/golden.npz": b"PK", "bom.cdx.json": json.dumps(BOM).encode()}
    files |= {"provenance.slsa.json": b'{"predicate": {"builder": "us"}}'}
    one = write_bundle(folder / "one", files)
    shutil.copytree(rendered, one, dirs_exist_ok=True)
    complete(one, package)
    return one, shutil.copytree(one, folder / "other")


def complete(bundle: Path, package: Mapping[str, str] = CPU_PACKAGE) -> None:
    """A manifest with tiers, for whatever the bundle holds."""
    names = [path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()]
    packages = {"packages/cpu-openvino": dict(package)}
    stages = [{"name": "measure w8-asym", "key": "k", "output": str(len(names)), "tools": {}}]
    tiers = tiers_of([name for name in names if name != "manifest.json"], packages)
    write_manifest(bundle, packages=packages, tiers=tiers, stages=stages)


def edit(path: str, change: Callable[[Any], object]) -> Callable[[Path], None]:
    """Edit a JSON file."""

    def apply(bundle: Path) -> None:
        document = json.loads((bundle / path).read_text())
        change(document)
        (bundle / path).write_text(json.dumps(document))

    return apply


def report(change: Callable[[Report], Report]) -> Callable[[Path], object]:
    """Another report; its renderings are left as they are."""
    return lambda bundle: (bundle / "report.json").write_text(to_json(change(read_report(bundle / "report.json"))))


def slower(found: Report) -> Report:
    """The same on a slower clock."""
    stages = tuple(dataclasses.replace(stage, seconds=stage.seconds * 2, cached=True) for stage in found.stages)
    return dataclasses.replace(found, stages=stages, created="2027-01-01T00:00:00+00:00")


def other_answer(found: Report) -> Report:
    """A package that says something else."""
    device = found.devices[0]
    runtime = device.runtimes[0]
    candidate = runtime.candidates[0]
    first, *rest = candidate.measurement.answers
    measured = dataclasses.replace(candidate.measurement, answers=(dataclasses.replace(first, text="Rome"), *rest))
    runtime = dataclasses.replace(
        runtime, candidates=(dataclasses.replace(candidate, measurement=measured), *runtime.candidates[1:])
    )
    device = dataclasses.replace(device, runtimes=(runtime, *device.runtimes[1:]))
    return dataclasses.replace(found, devices=(device, *found.devices[1:]))


def metric(document: Any) -> None:
    document["components"][0]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"][0]["value"] = "0.2"


DIFFERENCES: dict[str, tuple[Callable[[Path], object], str | None]] = {
    "nothing": (lambda bundle: None, None),
    "a weight": (lambda bundle: (bundle / WEIGHTS).write_bytes(bytes(60) + b"\1" + bytes(39)), f"{WEIGHTS}: byte 60"),
    "fewer weights": (lambda bundle: (bundle / WEIGHTS).write_bytes(bytes(99)), f"{WEIGHTS}: its length is 100 once"),
    "the golden reference": (lambda bundle: (bundle / "golden/golden.npz").write_bytes(b"PX"), "golden.npz: byte 1"),
    "a file more": (lambda bundle: (bundle / "packages/cpu-openvino/x").touch(), "cpu-openvino/x: the file"),
    "a field": (
        edit("provenance.slsa.json", lambda found: found["predicate"].update(builder="them")),
        'provenance.slsa.json: predicate.builder is "us" once and "them" once',
    ),
    "the time": (report(slower), None),
    "an answer": (report(other_answer), 'answers[0] is "The capital'),
    "a figure in the bill": (edit("bom.cdx.json", metric), None),
    "a part in the bill": (
        edit("bom.cdx.json", lambda found: found["components"][0].update(name="x")),
        "components[0]",
    ),
}


@pytest.mark.usefixtures("once_rendered")
@pytest.mark.parametrize("name", DIFFERENCES)
def test_what_differs_is_named_unless_it_may(name: str, tmp_path: Path, rendered: Path) -> None:
    change, said = DIFFERENCES[name]
    one, other = write_pair(tmp_path, rendered)
    change(other)
    complete(other)
    found = "\n".join(map(str, compare_bundles(one, other)))
    assert found == "" if said is None else said in found, found


def test_a_rendering_that_its_report_would_not_give_is_found(tmp_path: Path, rendered: Path) -> None:
    one, other = write_pair(tmp_path, rendered)
    (other / "report.md").write_text("# All is well\n")
    complete(other)
    assert [each.file for each in compare_bundles(one, other)] == ["report.md"]


@pytest.mark.usefixtures("once_rendered")
def test_a_vendors_blob_may_differ_and_its_answers_may_not(tmp_path: Path, rendered: Path) -> None:
    package = {"backend": "openvino-npu", "recipe": "w8-sym"}
    one, other = write_pair(tmp_path, rendered, package)
    (other / WEIGHTS).write_bytes(b"another blob")
    complete(other, package)
    assert compare_bundles(one, other) == []
    report(other_answer)(other)
    complete(other, package)
    assert compare_bundles(one, other)


def test_tiers_are_no_better_than_what_they_depend_on() -> None:
    files = ["packages/a/x", "packages/b/x", "packages/c/x", "provenance.slsa.json", "report.html", "golden/g"]
    packages = {
        "packages/a": {"backend": "openvino", "recipe": "w8-asym"},
        "packages/b": {"backend": "onnxruntime", "recipe": "w4-sym-g64+gptq"},
    }
    assert [*tiers_of(files, packages).values()][:2] == ["R0", "R1"]
    assert tiers_of(files, packages)["provenance.slsa.json"] == "R1"
    packages["packages/c"] = {"backend": "qnn", "recipe": "w8-sym"}
    assert [*tiers_of(files, packages).values()] == ["R0", "R1", "R2", "R2", "clock", "R1"]


@pytest.mark.usefixtures("once_rendered")
def test_a_difference_ends_with_twelve(tmp_path: Path, rendered: Path) -> None:
    one, other = write_pair(tmp_path, rendered)
    refuse_differences(compare_bundles(one, other))
    (other / WEIGHTS).write_bytes(bytes(99))
    complete(other)
    with pytest.raises(NotReproducible, match=r"model\.bin: its length") as caught:
        refuse_differences(compare_bundles(one, other))
    assert caught.value.exit_code == 12


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as a user would have it."""
    folder = write_folder(tmp_path_factory.mktemp("source") / "tiny", **TINY)
    spread_vectors(folder)
    return folder


def run(arguments: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=580, **options)


def test_a_real_build_is_the_same_the_second_time(tmp_path: Path, source: Path) -> None:
    """Real stages: another folder, store, home, time zone, locale, hash seed, umask and number of threads."""
    command = [sys.executable, "-m", "tapeout", "--store", str(tmp_path / "store"), "build", "null"]
    done = run([*command, "--model", str(source), "--out", str(tmp_path / "out"), "--check-reproducible"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert "reproducible" in done.stderr


CIRCUMSTANCES: dict[str, dict[str, Any]] = {
    "seed 1, Tokyo": {"env": {"PYTHONHASHSEED": "1", "TZ": "JST-9", "LC_ALL": "C.UTF-8"}, "umask": 0o022},
    "seed 2, New York": {"env": {"PYTHONHASHSEED": "2", "TZ": "EST5EDT", "LANG": "POSIX"}, "umask": 0o000},
    "one thread": {"env": {"TAPEOUT_DISTURBED": "1", "PYTHONHASHSEED": "3"}, "umask": 0o077},
    "nobody": {"env": {"PYTHONHASHSEED": "4", "TZ": "UTC"}, "umask": 0o027},
}
NOBODY = 65534


@pytest.mark.deep
def test_builds_are_the_same_whoever_makes_them(tmp_path: Path, source: Path) -> None:
    bundles = []
    for number, (name, options) in enumerate(CIRCUMSTANCES.items()):
        folder = tmp_path / f"place-{number}"
        folder.mkdir()
        model = Path(shutil.copytree(source, folder / "tiny"))
        command = [sys.executable, "-m", "tapeout", "--store", str(folder / "store"), "build", "null"]
        command += ["--model", str(model), "--out", str(folder / "out")]
        if name == "nobody" and os.geteuid() == 0 and shutil.which("setpriv"):
            for path in (tmp_path, *tmp_path.parents[:2]):
                path.chmod(0o755)
            run(["chown", "-R", str(NOBODY), str(folder)])
            # The interpreter may lie where nobody may look.
            caps = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
            command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *caps, *command]
        home = {"HOME": str(folder)}
        done = run(command, env={**os.environ, **home, **options["env"]}, umask=options["umask"])
        assert done.returncode in {0, 1}, f"{name}: {done.stderr[-2000:]}"
        bundles.append(folder / "out" / "null" / "tiny")
    for name, bundle in zip(CIRCUMSTANCES, bundles, strict=True):
        assert [str(each) for each in compare_bundles(bundles[0], bundle)] == [], name
