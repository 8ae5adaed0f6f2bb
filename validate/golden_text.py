"""The text and the requests that packages are compared on."""

import json
from importlib.resources import files

from export.digest import digest_bytes


def texts() -> list[str]:
    """The golden texts, in order."""
    return [json.loads(line)["text"] for line in read_text("golden.jsonl").splitlines()]


def prompts() -> list[str]:
    """The requests, in order."""
    return [json.loads(line)["user"] for line in read_text("prompts.jsonl").splitlines()]


def read_text(name: str) -> str:
    """A file of `validate/texts`."""
    return files("validate").joinpath("texts", name).read_text(encoding="utf-8")


def text_digest() -> str:
    """SHA-256 over everything the golden set is made of."""
    return digest_bytes((read_text("golden.jsonl") + read_text("prompts.jsonl")).encode())
