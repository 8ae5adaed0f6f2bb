"""What an OMS 1.0 signature signs: an in-toto statement that lists every file of a model with its SHA-256.

The rules are those of sections 5 and 6 of OpenSSF's model signing specification 1.0.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from export.digest import is_digest
from export.strict_json import parse_object
from tapeout.bundle_tree import collisions, name_fault, shown
from targets.errors import InputRefused, IntegrityError

TYPE = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
HASH = "sha256"
# Section 6.2: these at the top of a model are no part of it.
NEVER_SIGNED = (".git", ".gitattributes", ".github", ".gitignore")
AGAIN = "fetch the bundle again from whoever signed it"


@dataclass(frozen=True)
class Statement:
    """A signed list of files.

    Attributes:
        name: what the signer called the model; nothing depends on it.
        files: SHA-256 of every file, by path.
        ignored: paths that the signer left out.
    """

    name: str
    files: Mapping[str, str]
    ignored: tuple[str, ...] = NEVER_SIGNED


def write_statement(statement: Statement) -> bytes:
    """The statement as canonical JSON.

    Raises:
        IntegrityError: it lists no file, or a name that cannot be signed.
    """
    faults = name_faults(statement.files)
    if not statement.files or faults:
        raise IntegrityError(faults[0] if faults else "there is no file to sign", "build the bundle again")
    resources = [{"name": name, "digest": statement.files[name], "algorithm": HASH} for name in sorted(statement.files)]
    document = {
        "_type": TYPE,
        "subject": [{"name": statement.name, "digest": {HASH: root_digest(statement.files)}}],
        "predicateType": PREDICATE,
        "predicate": {
            "resources": resources,
            "serialization": {
                "method": "files",
                "hash_type": HASH,
                "allow_symlinks": False,
                "ignore_paths": list(statement.ignored),
            },
        },
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def root_digest(files: Mapping[str, str]) -> str:
    """SHA-256 over the digests of all files, as bytes, in the order of their names (section 6.5.1)."""
    return hashlib.sha256(b"".join(bytes.fromhex(files[name]) for name in sorted(files))).hexdigest()


def read_statement(payload: bytes) -> Statement:
    """The statement in a payload whose signature has been verified.

    Raises:
        IntegrityError: it is no OMS 1.0 statement, or one with links, shards, another hash, no file, a file twice,
            files out of order, or a name that leads out of the model.
    """
    try:
        document = parse_object(payload, "the signed statement")
    except InputRefused as error:
        raise IntegrityError(error.what, AGAIN) from error
    if document.get("_type") != TYPE or document.get("predicateType") != PREDICATE:
        raise wrong(f"is of type {document.get('predicateType')!r}, not {PREDICATE}")
    predicate = document.get("predicate")
    if set(document) != {"_type", "subject", "predicateType", "predicate"} or not isinstance(predicate, dict):
        raise wrong("has other fields than a statement of OMS 1.0")
    ignored = read_serialization(predicate.get("serialization"))
    files = read_resources(predicate.get("resources"))
    if set(predicate) != {"resources", "serialization"}:
        raise wrong("has a predicate with other fields than OMS 1.0")
    return Statement(read_subject(document["subject"], files), files, ignored)


def read_serialization(found: Any) -> tuple[str, ...]:
    """The paths left out, of a serialization that we follow.

    Raises:
        IntegrityError: it is not one of those.
    """
    if not isinstance(found, dict):
        raise wrong("does not say how files were hashed")
    if found.get("method") != "files" or "shard_size" in found:
        raise wrong(f"hashes by {found.get('method')!r}: this release reads whole files only")
    if found.get("hash_type") != HASH:
        raise wrong(f"hashes with {found.get('hash_type')!r}: this release knows {HASH}")
    if found.get("allow_symlinks") is not False:
        raise wrong("allows symbolic links, which no bundle has")
    ignored = found.get("ignore_paths", [])
    if not isinstance(ignored, list) or not all(isinstance(one, str) for one in ignored):
        raise wrong("has ignore_paths that are no list of names")
    # Section 6.2.1: exact paths, no patterns.
    bad = [one for one in ignored if name_fault(one) or set(one) & set("*?[")]
    if bad:
        raise wrong(f"ignores {bad[0]!a}, which is no plain path")
    return tuple(ignored)


def read_resources(found: Any) -> dict[str, str]:
    """Digest by name.

    Raises:
        IntegrityError: an entry is not sound, or there is none.
    """
    if not isinstance(found, list) or not found:
        raise wrong("lists no file")
    files: dict[str, str] = {}
    for entry in found:
        name, digest = (entry.get(key) if isinstance(entry, dict) else None for key in ("name", "digest"))
        if not isinstance(name, str) or not isinstance(digest, str) or not is_digest(digest):
            raise wrong("lists a file without a name or a digest")
        if entry.get("algorithm") != HASH:
            raise wrong(f"lists {shown(name)} with {entry.get('algorithm')!r}, not {HASH}")
        if name in files:
            raise wrong(f"lists {shown(name)} twice")
        files[name] = digest
    if list(files) != sorted(files):
        raise wrong("lists its files out of order")
    faults = name_faults(files)
    if faults:
        raise wrong(f"lists a name that no bundle has: {faults[0]}")
    return files


def read_subject(found: Any, files: Mapping[str, str]) -> str:
    """The model's name.

    Raises:
        IntegrityError: there is not one subject, or its digest is not that of the files.
    """
    if not isinstance(found, list) or len(found) != 1 or not isinstance(found[0], dict):
        raise wrong("has not one subject")
    name, digest = found[0].get("name"), found[0].get("digest")
    if not isinstance(name, str) or not name or not isinstance(digest, dict):
        raise wrong("has a subject without a name or a digest")
    if digest.get(HASH) != root_digest(files):
        raise wrong("has a subject whose digest is not that of its files")
    return name


def name_faults(names: Mapping[str, str]) -> list[str]:
    """What is wrong with names, one sentence each."""
    faults = [f"{shown(name)} {fault}" for name in names if (fault := name_fault(name)) is not None]
    return [*faults, *collisions(names)]


def wrong(what: str) -> IntegrityError:
    """The error of a statement that is not sound."""
    return IntegrityError(f"the signed statement {what}", AGAIN)
