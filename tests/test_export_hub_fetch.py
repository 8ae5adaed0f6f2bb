"""Fetching from the Hugging Face Hub, with a stand-in for its downloader."""

from pathlib import Path
from typing import Any

import pytest
import requests
from huggingface_hub.errors import LocalEntryNotFoundError

from export.hub_fetch import fetch_hub
from targets.errors import DeviceMissing

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Downloader:
    """Writes one file and remembers how it was called."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, **options: Any) -> str:
        self.calls.append(options)
        folder = Path(options["local_dir"])
        (folder / ".cache" / "huggingface").mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        return str(folder)


def test_the_revision_is_pinned_and_only_model_files_are_asked_for(tmp_path: Path) -> None:
    downloader = Downloader()
    folder = fetch_hub("owner/name", REVISION, tmp_path, downloader)
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    (call,) = downloader.calls
    assert (call["repo_id"], call["revision"]) == ("owner/name", REVISION)
    assert not [pattern for pattern in call["allow_patterns"] if pattern.endswith((".py", ".bin", "*"))]


def test_nothing_is_downloaded_twice_unless_it_changed(tmp_path: Path) -> None:
    downloader = Downloader()
    folder = fetch_hub("owner/name", REVISION, tmp_path, downloader)
    fetch_hub("owner/name", REVISION, tmp_path, downloader)
    assert len(downloader.calls) == 1
    (folder / "config.json").write_text("{ }")
    fetch_hub("owner/name", REVISION, tmp_path, downloader)
    assert len(downloader.calls) == 2
    assert (folder / "config.json").read_text() == "{}"


@pytest.mark.parametrize("error", [requests.ConnectionError("no route"), LocalEntryNotFoundError("offline")])
def test_a_failure_names_the_other_way_and_leaves_nothing(error: Exception, tmp_path: Path) -> None:
    def fail(**_: Any) -> str:
        raise error

    with pytest.raises(DeviceMissing) as caught:
        fetch_hub("owner/name", REVISION, tmp_path, fail)
    assert "--model PATH" in caught.value.help
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_real_downloader_in_offline_mode_is_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DeviceMissing):
        fetch_hub("owner/name", REVISION, tmp_path)
