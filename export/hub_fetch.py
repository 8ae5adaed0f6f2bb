"""Fetch one commit of a Hugging Face Hub repository: weights, configuration and tokenizer, never code."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from export.digest import canonical_json, list_files
from export.folder_listing import CARD, JSON_LIMITS, TEMPLATE
from targets.errors import DeviceMissing

PATTERNS = (*sorted(JSON_LIMITS), TEMPLATE, CARD, "*.safetensors")
Download = Callable[..., str]


def fetch_hub(owner_name: str, revision: str, folder: Path, download: Download | None = None) -> Path:
    """The files of `owner_name` at `revision`, below `folder`; nothing is downloaded twice.

    Args:
        owner_name: `owner/name`.
        revision: 40 hex digits of a commit.
        folder: where fetched repositories are kept.
        download: takes the place of `huggingface_hub.snapshot_download`.

    Raises:
        DeviceMissing: the files are not there and the Hub did not give them.
    """
    target = folder / owner_name.replace("/", "--") / revision
    if _is_whole(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as work:
        fetched = Path(work) / "files"
        _snapshot(owner_name, revision, fetched, download)
        # The downloader's own records.
        shutil.rmtree(fetched / ".cache", ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)
        _record(target).write_bytes(canonical_json(list_files(fetched)))
        fetched.rename(target)
    return target


def _snapshot(owner_name: str, revision: str, fetched: Path, download: Download | None) -> None:
    import huggingface_hub
    import requests
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    get = download or huggingface_hub.snapshot_download
    try:
        get(repo_id=owner_name, revision=revision, allow_patterns=list(PATTERNS), local_dir=str(fetched))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, requests.RequestException) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DeviceMissing(
            f"{owner_name}@{revision} cannot be fetched from the Hugging Face Hub: {reason}",
            "check the id, the revision and the network; or download it elsewhere and give --model PATH",
        ) from error


def _is_whole(target: Path) -> bool:
    """The folder holds the very bytes that were fetched."""
    if not target.is_dir() or not _record(target).is_file():
        return False
    return _record(target).read_bytes() == canonical_json(list_files(target))


def _record(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")
