"""Refuse options that a back end does not know: before any work, so without what does the work."""

from collections.abc import Iterable, Mapping

from targets.errors import UsageError
from targets.names import suggestion


def refuse_options(options: Mapping[str, str | int], known: Iterable[str], backend: str) -> None:
    """Refuse options that a back end does not know.

    Raises:
        UsageError: names the first unknown one and the nearest known.
    """
    names = tuple(known)
    for name in options:
        if name not in names:
            step = suggestion(name, names) if names else "remove it from the target: this back end has no options"
            raise UsageError(f"back end {backend} has no option '{name}'", step)
