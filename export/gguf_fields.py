"""Typed access to GGUF metadata: a field of the wrong kind is a refused input, not a crash later."""

from typing import TypeVar

from export.gguf_cursor import refuse
from export.gguf_reader import GgufModel
from targets.errors import InputRefused

T = TypeVar("T", str, int, float, bool)


def optional(gguf: GgufModel, key: str, kind: type[T]) -> T | None:
    """The field `key`, or None when the file has none.

    Raises:
        InputRefused: the field is not of this kind.
    """
    if key not in gguf.metadata:
        return None
    value = gguf.metadata[key]
    # In Python a bool is an int; in a GGUF file it is not.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise refuse(gguf.path, f"the field '{key}' is not of type {kind.__name__}")
    return value


def required(gguf: GgufModel, key: str, kind: type[T]) -> T:
    """The field `key`.

    Raises:
        InputRefused: there is none, or it is not of this kind.
    """
    value = optional(gguf, key, kind)
    if value is None:
        raise InputRefused(f"{gguf.path} has no field '{key}'", "convert the model again with a current converter")
    return value


def array(gguf: GgufModel, key: str, kind: type[T]) -> tuple[T, ...]:
    """The array `key`, empty when the file has none.

    Raises:
        InputRefused: the field is not an array of this kind.
    """
    values = gguf.metadata.get(key, ())
    if not isinstance(values, tuple):
        raise refuse(gguf.path, f"the field '{key}' is not an array")
    checked = tuple(value for value in values if isinstance(value, kind))
    if len(checked) != len(values):
        raise refuse(gguf.path, f"the array '{key}' holds values that are not of type {kind.__name__}")
    return checked
