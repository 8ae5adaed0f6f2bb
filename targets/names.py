"""Look up a name in a table, and answer an unknown one with the nearest that exists."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from targets.errors import UsageError

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None when nothing is close."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return found[0] if found else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """One sentence for a `help:` line: the nearest name, then everything there is."""
    names = sorted(known)
    close = nearest(name, names)
    hint = f"did you mean '{close}'? " if close else ""
    return f"{hint}Known: {', '.join(names)}"


def choose(name: str, table: Mapping[str, T], kind: str) -> T:
    """The entry of `table` called `name`.

    Raises:
        UsageError: no such entry; the help line names the nearest one.
    """
    if name in table:
        return table[name]
    raise UsageError(f"unknown {kind} '{name}'", suggestion(name, table))
