"""What identifies a stage's result: its key, the record kept under that key, and why a key is a new one."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from export.digest import canonical_json, digest_bytes, digest_files, digest_value, is_digest
from targets.errors import IntegrityError, StageFailed

PREFIX = b"tapeout stage key 1\n"
SHOWN_CHANGES = 3
SHOWN_CHARACTERS = 40


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a stage was asked for, what it answered and what that cost.

    Attributes:
        stage: the stage's name.
        version: the version of the stage's code.
        parameters: every parameter after defaults.
        inputs: the digest of every input, by name.
        tools: the exact version of every tool the stage calls, by name.
        value: the stage's answer as JSON, its files aside.
        created: the time in ISO 8601, or None in a build that must not know it.
        seconds: wall time.
        peak_bytes: the largest resident size, in bytes.
    """

    stage: str
    version: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, str]
    tools: Mapping[str, str]
    value: Any = None
    created: str | None = None
    seconds: float = 0.0
    peak_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Record(Provenance):
    """What the stage with one key produced.

    Attributes:
        key: the stage key (from `stage_key`).
        object: the digest of the folder of files.
        files: the SHA-256 of every file, by path.
        sizes: the bytes of every file, by path.
    """

    key: str
    object: str
    files: Mapping[str, str]
    sizes: Mapping[str, int]

    def encode(self) -> bytes:
        """Canonical JSON that carries the digest of everything else in it."""
        body = vars(self)  # flat: `asdict` would copy every answer, and a plan reads a hundred of them
        return canonical_json({**body, "digest": digest_value(body)})

    @classmethod
    def decode(cls, data: bytes) -> "Record":
        """The record whose encoding is exactly `data`.

        Raises:
            IntegrityError: `data` differs in any byte from what `encode` wrote.
        """
        try:
            body = json.loads(data)
            body.pop("digest", None)
            record = cls(**body)
            # Encoding again computes the digest anew, and also finds a change that parses to the same value (1e5, 1E5).
            sound = record.encode() == data and digest_files(record.files) == record.object
        except (ValueError, TypeError, AttributeError, RecursionError):
            sound = False
        if not sound:
            raise IntegrityError("a record of the store is damaged", "build again; the stage will be repeated")
        return record


def stage_key(
    name: str, version: str, parameters: Mapping[str, Any], inputs: Mapping[str, str], tools: Mapping[str, str]
) -> str:
    """The SHA-256 of everything that decides a stage's result. No clock, path or host belongs in it.

    Raises:
        StageFailed: a parameter has no canonical form, or an input is not named by a whole SHA-256.
    """
    for label, digest in inputs.items():
        if not is_digest(digest):
            raise StageFailed(f"stage {name}: input {label} has no digest", "pass the 64 hex digits of its SHA-256")
    request = {
        "stage": name,
        "version": version,
        "parameters": _plain(parameters, f"stage {name}: parameters"),
        "inputs": dict(inputs),
        "tools": dict(tools),
    }
    return digest_bytes(PREFIX + canonical_json(request))


def nearest_record(
    records: Iterable[Record],
    parameters: Mapping[str, Any],
    inputs: Mapping[str, str],
    tools: Mapping[str, str],
    version: str,
) -> Record | None:
    """Of the earlier records of one stage, the one with the fewest differences; of equals, the newest."""
    newest_first = sorted(records, key=lambda record: (record.created or "", record.key), reverse=True)
    return min(
        newest_first,
        key=lambda record: len(_changes(record, parameters, inputs, tools, version)),
        default=None,
    )


def explain(
    old: Record | None,
    parameters: Mapping[str, Any],
    inputs: Mapping[str, str],
    tools: Mapping[str, str],
    version: str,
) -> str:
    """One sentence saying why a stage has to run, given the nearest earlier record of the same stage."""
    if old is None or old.parameters.get("backend") != parameters.get("backend"):
        return "no earlier result"
    changes = _changes(old, parameters, inputs, tools, version)
    if not changes:
        return "the earlier result is gone"
    more = len(changes) - SHOWN_CHANGES
    return ", ".join(changes[:SHOWN_CHANGES]) + (f" and {more} more" if more > 0 else "")


def _changes(
    old: Record,
    parameters: Mapping[str, Any],
    inputs: Mapping[str, str],
    tools: Mapping[str, str],
    version: str,
) -> list[str]:
    """Every difference from `old`, one phrase each."""
    found = [] if old.version == version else ["its code changed"]
    found += [
        f"parameter {'.'.join(path)} {_arrow(before, after)}"
        for path, before, after in _differences(_leaves(old.parameters), _leaves(_plain(parameters, "parameters")))
    ]
    for name, before, after in _differences(old.inputs, inputs):
        verb = "added" if before is None else "removed" if after is None else "changed"
        found.append(f"input {name} {verb}")
    for name, before, after in _differences(old.tools, tools):
        found.append(f"{name} {before or 'absent'} -> {after or 'absent'}")
    return found


def _differences(before: Mapping[Any, Any], after: Mapping[Any, Any]) -> Iterator[tuple[Any, str | None, str | None]]:
    """Each name whose value differs, with both values as text; None where there is none."""
    for name in sorted({*before, *after}):
        if name not in before or name not in after or canonical_json(before[name]) != canonical_json(after[name]):
            yield name, _text(before, name), _text(after, name)


def _arrow(before: str | None, after: str | None) -> str:
    if before is None:
        return f"added ({_short(after or '')})"
    if after is None:
        return f"removed (was {_short(before)})"
    return f"changed {_short(before)} -> {_short(after)}"


def _text(table: Mapping[Any, Any], name: Any) -> str | None:
    """A word as it is, anything else as JSON, so that the text "64" and the number 64 look different."""
    if name not in table:
        return None
    value = table[name]
    return value if isinstance(value, str) and not value.isdecimal() else canonical_json(value).decode()


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."


def _leaves(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """The values inside nested tables, by their path; an empty table is a value."""
    found: dict[tuple[str, ...], Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping) and value:
            found |= _leaves(value, (*path, name))
        else:
            found[(*path, name)] = value
    return found


def _plain(value: Any, where: str) -> Any:
    """`value` in JSON's own types.

    Raises:
        StageFailed: any other type; turning it into text would make two requests look alike, or one look new each run.
    """
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{place}]") for place, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _plain(item, f"{where}.{name}") for name, item in value.items()}
    raise StageFailed(
        f"{where} is {value!r} ({type(value).__name__}), which has no canonical form",
        "pass text, finite numbers, true, false, none, lists, or tables with text keys",
    )
