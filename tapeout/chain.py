"""The chain of digests from a source to a bundle's packages, and its check without the store.

Every link is a stage's record: its key is the digest of what it was asked for, its inputs are the digests of earlier
links, its files are named by their own. Whoever has the source can check the first link, and the bundle holds the last.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from export.digest import digest_files, digest_value, is_digest
from tapeout.stage_key import Record, stage_key
from targets.errors import StageFailed

CHAIN = "chain.json"
SCHEMA_VERSION = 1
SHOWN = 12
PARTS = ("stage", "version", "parameters", "inputs", "tools", "value", "files", "key")


@dataclass(frozen=True)
class Checked:
    """What became of a chain.

    Attributes:
        transcript: one line a link.
        findings: one sentence for everything that does not fit.
    """

    transcript: tuple[str, ...]
    findings: tuple[str, ...]


def link_of(label: str, record: Record) -> dict[str, Any]:
    """A stage's record as a link: what was asked, what came of it, neither time nor memory."""
    whole = {part: getattr(record, part) for part in PARTS}
    return {"label": label, **whole, "files": dict(record.files), "inputs": dict(record.inputs)}


def write_chain(links: Sequence[Mapping[str, Any]], ends: Mapping[str, str]) -> dict[str, Any]:
    """The chain as JSON.

    Args:
        links: a link after those that it takes.
        ends: key of the link that made each folder of the bundle.
    """
    return {"schema_version": SCHEMA_VERSION, "links": [dict(link) for link in links], "ends": dict(ends)}


def check_chain(chain: Mapping[str, Any], files: Mapping[str, str]) -> Checked:
    """Compute every key and every digest again, and hold the ends against the bundle's files.

    Args:
        chain: of a bundle.
        files: SHA-256 by path, as the bundle's manifest has them.
    """
    links, ends = chain.get("links"), chain.get("ends")
    other = Checked((), (f"{CHAIN} is not a chain of schema {SCHEMA_VERSION}",))
    if chain.get("schema_version") != SCHEMA_VERSION or not isinstance(links, list) or not isinstance(ends, dict):
        return other
    if not all(isinstance(key, str) for key in ends.values()):
        return other
    outputs: dict[str, str] = {}
    made: dict[str, dict[str, str]] = {}
    lines: list[str] = []
    findings: list[str] = []
    for link in links:
        fault = shape_fault(link) or link_fault(link, outputs)
        if fault is not None:
            findings.append(f"{CHAIN}: {fault}")
            continue
        output = digest_value({"object": digest_files(link["files"]), "value": link["value"]})
        lines.append(line_of(link, outputs, output))
        outputs[output] = name_of(link)
        made[link["key"]] = link["files"]
    for folder, key in ends.items():
        fault = end_fault(folder, made.get(key), files)
        findings += [f"{CHAIN}: {fault}"] if fault else []
        lines += [] if fault else [f"{folder}/ holds the {len(made[key])} files of {key[:SHOWN]}"]
    return Checked(tuple(lines), tuple(findings))


def shape_fault(link: Any) -> str | None:
    """Whether a link has all its parts, of the right kinds."""
    tables = ("parameters", "inputs", "tools", "files")
    if not isinstance(link, dict) or set(link) != {"label", *PARTS}:
        return "a link has not the parts of one"
    words = (link["label"], link["stage"], link["version"], link["key"])
    digests = [*link["inputs"].values()] if isinstance(link["inputs"], dict) else [None]
    sound = all(isinstance(link[name], dict) for name in tables) and all(isinstance(word, str) for word in words)
    if not sound or not all(isinstance(each, str) and is_digest(each) for each in digests):
        return "a link has not the parts of one"
    return None


def link_fault(link: Mapping[str, Any], outputs: Mapping[str, str]) -> str | None:
    """Whether a link's key is the digest of what it was asked for, and its inputs came from earlier links."""
    strangers = [name for name, digest in link["inputs"].items() if digest not in outputs]
    if strangers:
        return f"{name_of(link)} takes {strangers[0]} that no earlier link made"
    identity = {name: link[name] for name in ("version", "parameters", "inputs", "tools")}
    try:
        key = stage_key(link["stage"], **identity)
    except StageFailed as error:
        return error.what
    return None if key == link["key"] else f"the key of {name_of(link)} is not that of what it was asked for"


def end_fault(folder: str, made: Mapping[str, str] | None, files: Mapping[str, str]) -> str | None:
    """Whether a folder of the bundle holds what its link made, and nothing else."""
    if made is None:
        return f"no link made {folder}"
    found = {path.removeprefix(f"{folder}/"): digest for path, digest in files.items() if path.startswith(f"{folder}/")}
    return None if found == made else f"{folder} does not hold the files that its link made"


def name_of(link: Mapping[str, Any]) -> str:
    """A link for people."""
    return f"{link['stage']} {link['label']}".strip()


def line_of(link: Mapping[str, Any], outputs: Mapping[str, str], output: str) -> str:
    """A link in the transcript."""
    takes = ", ".join(f"{outputs[digest]} {digest[:SHOWN]}" for digest in link["inputs"].values())
    source = link["parameters"].get("source")
    if not takes and isinstance(source, dict):
        takes = " ".join(f"{name}={value}" for name, value in sorted(source.items()))
    return f"{name_of(link)}: {takes or 'nothing'} -> {len(link['files'])} files, {output[:SHOWN]}"


def source_of(chain: Mapping[str, Any]) -> dict[str, str]:
    """What the first link says the source was; empty without one."""
    links: Iterable[Mapping[str, Any]] = chain.get("links") or ()
    found = (link["parameters"].get("source") for link in links if link["stage"] == "import")
    source = next(found, None)
    return source if isinstance(source, dict) else {}
