"""What a build is said to need, and what is refused before it starts."""

import json
from pathlib import Path

import pytest

import tapeout.forecast as forecasts
from export.architectures import expected_tensors
from export.model import Model
from tapeout.forecast import Forecast, check_fits, forecast, weight_bytes
from tapeout.jobs import Request
from tapeout.synthetic_model import configuration
from targets.errors import InputRefused, NoSpace
from targets.probe import probe_host
from targets.target import load_target


def request_for(folder: Path, precision: str = "int4") -> Request:
    """A build for any x86-64 computer."""
    return Request(load_target("cpu"), str(folder), precision, probe_host(), "downloads")


def synthetic(folder: Path, size: str) -> Path:
    """A folder with the configuration of a large model and none of its weights."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(configuration(size, 49152)))
    return folder


def test_what_is_foreseen_grows_with_the_model(tmp_path: Path) -> None:
    small, large = (forecast(request_for(synthetic(tmp_path / size, size)), None) for size in ("135m", "7b"))
    assert isinstance(small, Forecast)
    assert isinstance(large, Forecast)
    assert small.parameters == 134_515_008
    assert large.parameters == pytest.approx(6.88e9, rel=0.01)
    assert small.build_bytes < 1.1e9
    assert large.build_bytes < 6e9 < large.golden_bytes
    assert large.build_s < 40 * 60
    assert "6.88 billion parameters" in str(large)


def test_the_bytes_of_a_recipe_are_those_of_the_package(tiny_model: Model) -> None:
    config = json.loads((tiny_model.folder / "config.json").read_text())
    shapes = expected_tensors(config, "config.json")
    linear = sum(rows * columns for name, (rows, *rest) in shapes.items() for columns in rest if "_proj" in name)
    four, eight = (weight_bytes(shapes, name) for name in ("w4-sym-g32", "w8-sym"))
    assert eight - four == pytest.approx(linear * (0.5 - 4 / 32) + linear / 64 * 2, rel=0.25)


def test_what_does_not_fit_is_refused_and_what_does_is_named(
    tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request_for(tiny_model.folder)
    assert check_fits(asked, tmp_path / "store", None) is not None
    monkeypatch.setattr(forecasts, "available_bytes", lambda: int(0.4e9))
    with pytest.raises(
        InputRefused, match=r"running the float model needs 0\.5 GB of memory, and 0\.4 GB are"
    ) as caught:
        check_fits(asked, tmp_path / "store", None)
    assert "--until compile" in caught.value.help
    assert check_fits(asked, tmp_path / "store", "compile") is not None
    monkeypatch.setattr(forecasts, "available_bytes", lambda: int(1e8))
    with pytest.raises(InputRefused, match="building packages needs"):
        check_fits(asked, tmp_path / "store", "compile")


def test_a_disk_that_is_too_full_is_refused(tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasts, "free_bytes", lambda folder: 1000)
    with pytest.raises(NoSpace, match="of disk"):
        check_fits(request_for(tiny_model.folder), tmp_path / "store", "compile")


def test_a_source_that_is_not_here_is_not_foreseen(tmp_path: Path) -> None:
    assert check_fits(request_for(Path("smollm2-135m")), tmp_path, None) is None
