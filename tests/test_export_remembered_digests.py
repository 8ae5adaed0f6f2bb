"""Digests that are remembered: never of other bytes than those that are there."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

import export.remembered_digests
from export.digest import digest_file
from export.remembered_digests import LARGE, MEMORY, TICK_NS, remembered_digests
from export.source import LocalFolder, source_identity
from tapeout.pipeline import import_stage
from tapeout.stage import Call
from targets.errors import InputRefused
from tests.tiny_folder import write_folder

AN_HOUR_AGO = time.time_ns() - 3_600_000_000_000


class Reads:
    """Counts the files that are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[Path] = []
        monkeypatch.setattr(export.remembered_digests, "digest_file", self.digest)

    def digest(self, path: Path) -> str:
        self.paths.append(path)
        return digest_file(path)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock some time after every write of a test: nobody waits for a file to be old enough."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 2 * TICK_NS)


def large(path: Path, byte: bytes = b"a") -> Path:
    path.write_bytes(byte * LARGE)
    return path


def ask(folder: Path, *paths: Path) -> list[str]:
    with remembered_digests(folder) as digest:
        return [digest(path) for path in paths]


@pytest.mark.usefixtures("later")
def test_a_large_file_is_read_once(tmp_path: Path, reads: Reads) -> None:
    path = large(tmp_path / "weights")
    assert ask(tmp_path, path) == ask(tmp_path, path) == [digest_file(path)]
    assert reads.paths == [path]


@pytest.mark.usefixtures("later")
def test_a_small_file_is_always_read(tmp_path: Path, reads: Reads) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"a" * (LARGE - 1))
    ask(tmp_path, path)
    ask(tmp_path, path)
    assert reads.paths == [path, path]
    assert not (tmp_path / MEMORY).exists()


def test_what_was_just_written_is_not_remembered(tmp_path: Path, reads: Reads) -> None:
    path = large(tmp_path / "weights")
    os.utime(path, ns=(AN_HOUR_AGO, AN_HOUR_AGO))  # only the time of the change says it: st_ctime
    ask(tmp_path, path)
    ask(tmp_path, path)
    assert reads.paths == [path, path]


def overwrite(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.write(b"b")


def overwrite_and_hide(path: Path) -> None:
    """With size and time of the last write as they were; st_ctime cannot be set."""
    status = path.stat()
    overwrite(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(path: Path) -> None:
    status = path.stat()
    other = large(path.parent / "other", b"b")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [overwrite, overwrite_and_hide, replace])
@pytest.mark.usefixtures("later")
def test_every_change_is_seen(tmp_path: Path, change: Any) -> None:
    path = large(tmp_path / "weights")
    before = ask(tmp_path, path)
    change(path)
    assert ask(tmp_path, path) == [digest_file(path)] != before


@pytest.mark.usefixtures("later")
def test_a_link_to_other_bytes_is_seen(tmp_path: Path) -> None:
    """Folders of a hub's cache are links to files that are named by their content."""
    one, other, link = large(tmp_path / "1"), large(tmp_path / "2", b"b"), tmp_path / "weights"
    link.symlink_to(one)
    assert ask(tmp_path, link) == [digest_file(one)]
    link.unlink()
    link.symlink_to(other)
    assert ask(tmp_path, link) == [digest_file(other)]


@pytest.mark.usefixtures("later")
def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = large(tmp_path / "weights")

    def disturbed(path: Path) -> str:
        found = digest_file(path)
        overwrite(path)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(export.remembered_digests, "digest_file", disturbed)
        ask(tmp_path, path)
    assert ask(tmp_path, path) == [digest_file(path)]


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 100_000, '{"%s": [1, 2, 3, 4, 5, "no digest"]}', '{"%s": ["a", 2, 3, 4, 5]}']
)
@pytest.mark.usefixtures("later")
def test_a_spoilt_memory_is_none(tmp_path: Path, text: str) -> None:
    path = large(tmp_path / "weights")
    (tmp_path / MEMORY).write_text(text.replace("%s", str(path)))
    assert ask(tmp_path, path) == [digest_file(path)]
    assert list(json.loads((tmp_path / MEMORY).read_text())) == [str(path)]


@pytest.mark.usefixtures("later")
def test_the_memory_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export.remembered_digests, "AT_MOST", 2)
    paths = [large(tmp_path / name) for name in "abc"]
    for path in paths:
        ask(tmp_path, path)
    assert list(json.loads((tmp_path / MEMORY).read_text())) == [str(path) for path in paths[1:]]


@pytest.mark.usefixtures("later")
def test_where_nothing_can_be_written_files_are_read(tmp_path: Path, reads: Reads) -> None:
    path, nowhere = large(tmp_path / "weights"), tmp_path / "file"
    nowhere.write_bytes(b"")
    assert ask(nowhere / "folder", path) == ask(nowhere / "folder", path) == [digest_file(path)]
    assert reads.paths == [path, path]


def test_an_import_reads_what_it_was_asked_for_or_nothing(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "model")
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    (downloads / MEMORY).write_text("{}")
    known = source_identity(LocalFolder(source))
    arguments = {"source": str(source), "downloads": str(downloads)}

    def imported(out: str) -> Any:
        return import_stage(Call({}, {"source": known}, arguments, tmp_path / out, lambda done, total: None))

    assert imported("one").source == known
    assert (downloads / MEMORY).exists()
    text = (source / "generation_config.json").read_text()
    (source / "generation_config.json").write_text(text + "\n")
    with pytest.raises(InputRefused, match="changed while the build began"):
        imported("two")
    assert not (downloads / MEMORY).exists()
