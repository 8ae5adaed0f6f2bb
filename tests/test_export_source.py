"""What a user may type for a model, and what identifies it."""

import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.catalog import CATALOG, default_model
from export.source import (
    CatalogName,
    GgufFile,
    HubId,
    LocalFolder,
    parse_source,
    source_identity,
    source_name,
)
from targets.errors import InputRefused, TapeoutError, UsageError
from tests.tiny_folder import write_folder

REVISION = "0123456789abcdef0123456789abcdef01234567"


def test_each_form_gives_its_kind(tmp_path: Path) -> None:
    (tmp_path / "Model.GGUF").write_bytes(b"GGUF")
    assert parse_source("smollm2-135m") == CatalogName("smollm2-135m")
    assert parse_source(f"hf:owner/name@{REVISION}") == HubId("owner/name", REVISION)
    assert parse_source(str(tmp_path)) == LocalFolder(tmp_path)
    assert parse_source(str(tmp_path / "Model.GGUF")) == GgufFile(tmp_path / "Model.GGUF")


def test_a_catalog_name_wins_over_a_folder_which_a_dot_still_reaches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2-135m").mkdir()
    assert isinstance(parse_source("smollm2-135m"), CatalogName)
    assert isinstance(parse_source("./smollm2-135m"), LocalFolder)


@pytest.mark.parametrize(
    "text",
    [
        "hf:owner/name",
        "hf:owner/name@main",
        f"hf:owner/name@{REVISION[:-1]}",
        f"hf:owner/name@{REVISION.upper()}",
        f"hf:owner@{REVISION}",
        f"hf:a/b/c@{REVISION}",
        f"hf:../name@{REVISION}",
        f"hf:owner/na..me@{REVISION}",
        f"hf:owner/name@{REVISION}\n",
        "hf:",
    ],
)
def test_a_hub_id_needs_a_pinned_revision(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_source(text)
    assert caught.value.exit_code == 2
    assert "40 hex" in caught.value.help


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        parse_source("smolm2-135m")
    assert "did you mean 'smollm2-135m'?" in caught.value.help


@pytest.mark.parametrize("text", ["./missing", "missing.gguf", "/no/such/folder", "owner/name", "", "a\0b", "x" * 5000])
def test_a_missing_path_is_one_clear_error(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_source(text)
    assert caught.value.help
    assert len(caught.value.what) < 400


def test_a_bare_repository_name_is_told_the_full_form() -> None:
    with pytest.raises(UsageError) as caught:
        parse_source("owner/name")
    assert "hf:owner/name@REVISION" in caught.value.help


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "model.pt"])
def test_a_file_of_another_kind_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputRefused) as caught:
        parse_source(str(tmp_path / name))
    assert caught.value.help


@given(st.text(max_size=60) | st.from_regex(r"hf:[\w./@-]{0,60}", fullmatch=True))
def test_any_text_is_a_source_or_a_typed_error(text: str) -> None:
    try:
        source = parse_source(text)
    except TapeoutError as error:
        helped = bool(error.help)
        assert helped
        return
    assert re.fullmatch(r"[a-z0-9._-]+", source_name(source))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (HubId("Owner/Some.Model_7B", REVISION), "some.model_7b"),
        (GgufFile(Path("/x/SmolLM2 135M.Q4_1.gguf")), "smollm2-135m.q4_1"),
        (GgufFile(Path("/x/\u4e2d.gguf")), "model"),
        (LocalFolder(Path("/")), "model"),
    ],
)
def test_a_name_is_fit_for_a_folder(source: GgufFile | HubId | LocalFolder, name: str) -> None:
    assert source_name(source) == name


def test_the_identity_of_a_file_is_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"one")
    first = source_identity(GgufFile(path))
    path.write_bytes(b"two")
    assert first != source_identity(GgufFile(path))
    assert first["kind"] == "gguf"
    assert str(tmp_path) not in str(first)


def test_the_identity_of_a_folder_is_what_an_import_reads(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    first = source_identity(LocalFolder(folder))
    (folder / "notes.txt").write_text("nothing that matters")
    assert source_identity(LocalFolder(folder)) == first
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert source_identity(LocalFolder(folder)) != first


def test_pinned_sources_are_identified_by_their_pins() -> None:
    entry = CATALOG[default_model()]
    assert source_identity(CatalogName(entry.name))["sha256"] == entry.member_sha256
    assert source_identity(HubId("owner/name", REVISION))["revision"] == REVISION


def test_a_missing_file_has_no_identity(tmp_path: Path) -> None:
    for source in (GgufFile(tmp_path / "m.gguf"), LocalFolder(tmp_path / "m")):
        with pytest.raises(InputRefused):
            source_identity(source)


def test_a_file_larger_than_its_disk_is_not_read(tmp_path: Path) -> None:
    """It would be read for half an hour; the import alone, which looks at it first, comes after."""
    path = tmp_path / "m.gguf"
    with path.open("wb") as stream:
        stream.write(b"GGUF")
        stream.truncate(shutil.disk_usage(tmp_path).total + 1)
    folder = write_folder(tmp_path / "model")
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.truncate(shutil.disk_usage(tmp_path).total + 1)
    for source in (GgufFile(path), LocalFolder(folder)):
        with pytest.raises(InputRefused, match="most of it was never written"):
            source_identity(source)
