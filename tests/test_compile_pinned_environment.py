"""An environment of its own: made once, again when its pins change, and only complete ones are used."""

import subprocess
from pathlib import Path

import pytest

from compile import pinned_environment
from compile.pinned_environment import COMPLETE, PinnedEnvironment, ensure_environment, environments_folder, read_pins
from compile.quark_load import ENVIRONMENT, READER, describe_quark
from targets.errors import DeviceMissing, StageFailed
from targets.probe import Available, Missing


def empty(folder: Path, text: str = "# nothing\n") -> PinnedEnvironment:
    """An environment of Python alone."""
    requirements = folder / "requirements.txt"
    requirements.write_text(text)
    return PinnedEnvironment("empty", requirements)


def test_it_is_made_once_and_has_its_own_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = empty(tmp_path)
    python = ensure_environment(environment, tmp_path / "kept")
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True, timeout=60)
    assert "numpy" not in listed.stdout
    (environment.folder(tmp_path / "kept") / COMPLETE).stat()

    def again(*given: object) -> None:
        raise AssertionError(given)

    monkeypatch.setattr(pinned_environment, "install", again)
    assert ensure_environment(environment, tmp_path / "kept") == python
    (environment.folder(tmp_path / "kept") / COMPLETE).unlink()  # as if it had been interrupted
    with pytest.raises(AssertionError):
        ensure_environment(environment, tmp_path / "kept")


def test_other_pins_are_another_environment(tmp_path: Path) -> None:
    one = empty(tmp_path).key
    assert empty(tmp_path, "numpy==2.4.6\n").key != one
    assert empty(tmp_path).key == one


def test_a_package_that_cannot_be_had_is_named_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    environment = empty(tmp_path, "amd-quark==0.13\n")
    with pytest.raises(DeviceMissing, match="environment empty") as missing:
        ensure_environment(environment, tmp_path / "kept")
    assert "pip.log" in missing.value.help
    assert not (environment.folder(tmp_path / "kept") / COMPLETE).exists()


def test_a_requirement_without_an_exact_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="'numpy>=2' pins no exact version"):
        read_pins(empty(tmp_path, "torch==2.13.0\nnumpy>=2\n").requirements)


def test_quarks_pins_are_complete_and_have_the_cpu_torch() -> None:
    pins = read_pins(ENVIRONMENT.requirements)
    assert (pins["amd-quark"], pins["torch"]) == ("0.13", "2.13.0")
    assert set(ENVIRONMENT.first) <= set(pins)
    assert not [name for name in pins if name.startswith(("nvidia", "triton"))]
    assert READER.is_file()


def test_it_is_kept_where_downloads_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TAPEOUT_DOWNLOADS", str(tmp_path))
    assert environments_folder() == tmp_path
    missing = describe_quark()
    assert isinstance(missing, Missing)
    assert "quark" in missing.help
    ENVIRONMENT.folder(tmp_path).mkdir(parents=True)
    (ENVIRONMENT.folder(tmp_path) / COMPLETE).touch()
    assert describe_quark() == Available("0.13")
