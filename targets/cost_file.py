"""A user's TOML file with `[cost]` and `[[alternatives]]` -> the prices and alternatives of a report's comparison."""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from targets.cost import Alternative, Cost
from targets.errors import UsageError

EXAMPLE = "docs/report.md has an example"


@dataclass(frozen=True, slots=True)
class Offers:
    """What such a file says.

    Attributes:
        cost: of the device; None when the file has no `[cost]`.
        alternatives: in the file's order.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    cost: Cost | None = None
    alternatives: tuple[Alternative, ...] = ()


def load_offers(path: Path) -> Offers:
    """Read the file.

    Raises:
        UsageError: it cannot be read, is not TOML, or has wrong entries; each is listed with its path.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        document = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "check the path") from error
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}", EXAMPLE) from error
    try:
        return TypeAdapter(Offers).validate_json(json.dumps(document, default=str), strict=True)
    except ValidationError as error:
        lines = "".join(
            f"\n  {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False)
        )
        raise UsageError(f"{path} has wrong entries:{lines}", EXAMPLE) from error
