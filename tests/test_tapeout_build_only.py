"""`build --until compile`: packages, and not a word about what was not measured."""

import json
from pathlib import Path

from click.testing import CliRunner

from export.digest import list_files
from export.model import Model
from tapeout.cli import main


def test_packages_are_built_and_said_to_be_unmeasured(tiny_model: Model, tmp_path: Path) -> None:
    common = ["--store", str(tmp_path / "store"), "build", "null", "--model", str(tiny_model.folder), "--out"]
    wanted = [*common, str(tmp_path / "out"), "--until", "compile", "--format", "json"]
    run = CliRunner().invoke(main, [*wanted, "--precision", "int8"])
    assert run.exit_code == 0, run.output
    told = json.loads(run.stdout)
    assert told["verdict"] == "INCOMPLETE"
    assert "fidelity to the float model" in told["not_measured"]
    assert [stage["name"].split()[0] for stage in told["stages"]] == ["import", "export", "quantize", "compile"]
    assert all(stage["peak_bytes"] > 0 for stage in told["stages"])
    (package,) = told["packages"]
    folder = tmp_path / "out" / "null" / tiny_model.folder.name / "unmeasured"
    assert (package["recipe"], folder / package["folder"]) == ("w8-asym", Path(told["folder"]) / package["folder"])
    assert len(list_files(folder / package["folder"])) > 3
    assert json.loads((folder / "unmeasured.json").read_text())["packages"] == told["packages"]
    again = CliRunner().invoke(main, [*wanted, "--precision", "int8", "--strict"])
    assert again.exit_code == 10
    assert all(stage["cached"] for stage in json.loads(again.stdout)["stages"])


def test_what_asks_for_figures_is_refused(tiny_model: Model, tmp_path: Path) -> None:
    common = ["--store", str(tmp_path / "store"), "build", "null", "--model", str(tiny_model.folder)]
    run = CliRunner().invoke(main, [*common, "--until", "compile", "--suite"])
    assert (run.exit_code, "--suite needs figures" in str(run.exception or run.output)) != (0, False)
    run = CliRunner().invoke(main, [*common, "--until", "compile", "--precision", "auto"])
    assert run.exit_code != 0
