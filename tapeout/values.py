"""Stage values as JSON and back: everything but folders, which are wherever the store keeps them."""

import dataclasses
from importlib import import_module
from pathlib import Path
from typing import Any


def to_json(value: Any) -> dict[str, Any]:
    """A frozen value's fields without those that say where files are; tuples become lists."""
    fields = dataclasses.asdict(value)
    return {name: plain(field) for name, field in fields.items() if not isinstance(field, Path)}


def plain(value: Any) -> Any:
    """The same value made of what JSON has."""
    if isinstance(value, dict):
        return {str(key): plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [plain(member) for member in value]
    return value


def from_json(kind: str, value: dict[str, Any], folder: Path) -> Any:
    """The value of class `module:class` whose files are in `folder`."""
    from pydantic import TypeAdapter

    module, name = kind.split(":")
    return TypeAdapter(getattr(import_module(module), name)).validate_python({**value, "folder": folder})
