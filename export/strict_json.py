"""JSON from files that nobody vouches for, and JSON that is the same bytes every time."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from targets.errors import InputRefused

# Lists, objects and their members together: each takes some 60 bytes once it is parsed. The vocabularies of the largest
# models have 2.5 million.
MAX_VALUES = 4 << 20


def parse_object(text: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `text`; `where` names it in errors.

    Raises:
        InputRefused: not UTF-8, not JSON, not an object, too deep or too large, with a number that is not finite, or
            with a key twice.
    """
    try:
        _check_count(text)
        value = json.loads(
            text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        fault = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise InputRefused(
            f"{where} is not sound JSON: {fault}", "download it again, or convert the model again"
        ) from error
    if not isinstance(value, dict):
        raise InputRefused(f"{where} is not a JSON object", "download it again, or convert the model again")
    return value


def read_object(path: Path, limit: int) -> dict[str, Any]:
    """The JSON object in a file of at most `limit` bytes.

    Raises:
        InputRefused: the file cannot be read, is larger, or holds no sound JSON object.
    """
    try:
        with path.open("rb") as stream:
            text = stream.read(limit + 1)
    except OSError as error:
        raise InputRefused(f"{path} cannot be read: {error.strerror}", "check the path and its permissions") from error
    if len(text) > limit:
        raise InputRefused(f"{path} is larger than {limit} bytes", "this is no configuration of a small language model")
    return parse_object(text, str(path))


def write_json(path: Path, value: Any) -> None:
    """Write `value` for people to read: sorted keys, two spaces, a final newline."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_bytes(text.encode() + b"\n")


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} appears twice")
        found[key] = value
    return found


def _check_count(text: bytes) -> None:
    if sum(text.count(sign) for sign in (b"[", b"{", b",")) > MAX_VALUES:
        raise ValueError(f"it has more than {MAX_VALUES} values")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:40]} is beyond every number")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")
