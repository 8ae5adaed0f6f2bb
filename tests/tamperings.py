"""Ways to tamper with a signed bundle, and what has to be said of each."""

import base64
import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.digest import digest_file
from tapeout.manifest import MANIFEST, SIGNATURE
from tapeout.oms_bundle import Envelope, pae, write_envelope
from tapeout.oms_statement import NEVER_SIGNED, Statement, root_digest, write_statement
from tapeout.sign import Signer, sign_bundle
from tapeout.signing_key import PrivateKey, hint, sign_bytes
from tests.tiny_bundle import SEQUENCE, WEIGHTS, edit_manifest, new_key, write_bundle, write_manifest

KEY, FOREIGN = new_key(), new_key()
GIB = 1 << 30
PASS = b'{"verdict": "PASS"}\n'
DECOMPOSED = unicodedata.normalize("NFD", "packages/mod\u00e8le.bin")


@dataclass(frozen=True)
class Tampering:
    """One way to tamper, and what has to be said of it."""

    name: str
    change: Callable[[Path], object]
    said: str


def flip(path: str, bit: int = 3) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        data = bytearray((folder / path).read_bytes())
        data[len(data) // 2] ^= 1 << bit
        (folder / path).write_bytes(data)

    return change


def rename(old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / old).rename(folder / new)


def remove(path: str) -> Callable[[Path], object]:
    return lambda folder: (folder / path).unlink()


def add(path: str, data: bytes = b"new") -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)

    return change


def swap_folders(folder: Path) -> None:
    one, other = folder / "packages/cpu-openvino", folder / "packages/cpu-onnxruntime"
    one.rename(folder / "third")
    other.rename(one)
    (folder / "third").rename(other)


def linked(kind: str) -> Callable[[Path], object]:
    """The weights by way of a link to the same bytes outside the bundle."""

    def change(folder: Path) -> None:
        outside = folder.parent / "outside.bin"
        (folder / WEIGHTS).rename(outside)
        if kind == "symbolic":
            (folder / WEIGHTS).symlink_to(outside)
        else:
            (folder / WEIGHTS).hardlink_to(outside)

    return change


def linked_folder(folder: Path) -> None:
    outside = folder.parent / "golden"
    (folder / "golden").rename(outside)
    (folder / "golden").symlink_to(outside)


def link_manifest(folder: Path) -> None:
    (folder / MANIFEST).rename(folder.parent / "manifest")
    (folder / MANIFEST).symlink_to(folder.parent / "manifest")


def add_endless(folder: Path) -> None:
    """Four tebibytes of nothing: whoever reads them is busy for hours."""
    (folder / "extra.bin").touch()
    os.truncate(folder / "extra.bin", 1 << 42)


def grow(size: int) -> Callable[[Path], object]:
    """The same first bytes, then zeros that take no room on disk: a 32-bit size would look the same."""

    def change(folder: Path) -> None:
        os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size + size)

    return change


def signature(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """Edit the signature file as JSON."""

    def apply(folder: Path) -> None:
        document = json.loads((folder / SIGNATURE).read_text())
        change(document)
        (folder / SIGNATURE).write_text(json.dumps(document))

    return apply


def files_of(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SIGNATURE)
    return {path.relative_to(folder).as_posix(): digest_file(path) for path in paths}


def seal(folder: Path, payload: bytes, key: PrivateKey = KEY) -> None:
    """Sign `payload`, whatever it says."""
    envelope = Envelope(payload, sign_bytes(key, pae(payload)), hint(key.public_key()))
    (folder / SIGNATURE).write_bytes(write_envelope(envelope))


def statement(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """Edit the statement, and sign it with the right key: a signer may be made to sign what no verifier should take."""

    def apply(folder: Path) -> None:
        document = json.loads(write_statement(Statement("bundle", files_of(folder), NEVER_SIGNED)))
        change(document)
        resources = document["predicate"]["resources"]
        files = {entry["name"]: entry["digest"] for entry in resources}
        if document["subject"][0]["digest"] != {"sha256": "0" * 64}:
            document["subject"][0]["digest"] = {"sha256": root_digest(files)}
        seal(folder, json.dumps(document).encode())

    return apply


def listed(name: str) -> Callable[[dict[str, Any]], object]:
    """A statement that lists one more name."""

    def change(document: dict[str, Any]) -> None:
        resources = document["predicate"]["resources"]
        resources.append({"name": name, "digest": "a" * 64, "algorithm": "sha256"})
        resources.sort(key=lambda entry: entry["name"])

    return change


def serialization(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["predicate"]["serialization"].update(changes)


def only(*names: str) -> Callable[[dict[str, Any]], object]:
    """A statement about some of the files."""

    def change(document: dict[str, Any]) -> None:
        predicate = document["predicate"]
        predicate["resources"] = [entry for entry in predicate["resources"] if entry["name"] in names]

    return change


def in_manifest(name: str) -> Callable[[Path], object]:
    """A manifest that lists one more name."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][name] = "a" * 64
        manifest["sizes"][name] = 1

    return lambda folder: edit_manifest(folder, change)


def manifest_text(old: str, new: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        text = (folder / MANIFEST).read_text()
        assert old in text
        (folder / MANIFEST).write_text(text.replace(old, new, 1))

    return change


def forge(path: str, data: bytes, key: PrivateKey | None = None) -> Callable[[Path], object]:
    """Edit a document, make the manifest fit, and sign again where there is a key."""

    def change(folder: Path) -> None:
        (folder / path).write_bytes(data)
        write_manifest(folder)
        if key is not None:
            sign_bundle(folder, Signer(key))

    return change


def downgrade(folder: Path) -> None:
    """An older release, properly signed."""
    write_manifest(folder, sequence=SEQUENCE - 1)
    sign_bundle(folder, Signer(KEY))


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def other_bundles_signature(folder: Path) -> None:
    other = write_bundle(folder.parent / "other", {"packages/a/model.bin": b"other"})
    sign_bundle(other, Signer(KEY))
    shutil.copy(other / SIGNATURE, folder / SIGNATURE)


TAMPERINGS = (
    Tampering("bit-in-weights", flip(WEIGHTS), f"{WEIGHTS} was changed"),
    Tampering(
        "first-bit-of-weights",
        lambda f: (f / WEIGHTS).write_bytes(b"\x80" + (f / WEIGHTS).read_bytes()[1:]),
        "was changed",
    ),
    Tampering("bit-in-tokenizer", flip("packages/cpu-openvino/tokenizer.json"), "was changed"),
    Tampering("bit-in-report", flip("report.json"), "report.json was changed"),
    Tampering("bit-in-page", flip("report.html"), "report.html was changed"),
    Tampering("bit-in-bom", flip("bom.cdx.json"), "bom.cdx.json was changed"),
    Tampering("bit-in-provenance", flip("provenance.slsa.json"), "provenance.slsa.json was changed"),
    Tampering("bit-in-golden", flip("golden/golden.npz"), "golden/golden.npz was changed"),
    Tampering(
        "space-in-manifest",
        manifest_text('"sequence": 4', '"sequence":  4'),
        "manifest.json is not the file that was signed",
    ),
    Tampering("weights-emptied", lambda f: (f / WEIGHTS).write_bytes(b""), "0 bytes, not 4096"),
    Tampering("weights-cut", lambda f: os.truncate(f / WEIGHTS, 4095), "4095 bytes, not 4096"),
    Tampering("weights-longer", grow(1), "4097 bytes, not 4096"),
    Tampering("weights-longer-by-2-gib", grow(2 * GIB), f"{2 * GIB + 4096} bytes, not 4096"),
    Tampering("weights-longer-by-4-gib", grow(4 * GIB), f"{4 * GIB + 4096} bytes, not 4096"),
    Tampering("weights-missing", remove(WEIGHTS), f"{WEIGHTS} is missing"),
    Tampering("report-missing", remove("report.json"), "report.json is missing"),
    Tampering("bom-missing", remove("bom.cdx.json"), "bom.cdx.json is missing"),
    Tampering("manifest-missing", remove(MANIFEST), "no readable manifest.json"),
    Tampering("file-added", add("packages/cpu-openvino/extra.bin"), "extra.bin does not belong"),
    Tampering(
        "endless-file-added",
        add_endless,
        "extra.bin was not signed",
    ),
    Tampering("git-folder-added", add(".git/config"), ".git/config was not signed"),
    Tampering("empty-folder-added", lambda f: (f / "packages/new").mkdir(), "the folder packages/new does not belong"),
    Tampering("second-signature-added", add("packages/model.sig"), "packages/model.sig does not belong"),
    Tampering("name-with-newline-added", add("packages/a\nb"), "has an invisible character"),
    Tampering("name-with-override-added", add("packages/a\u202eb"), "has an invisible character"),
    Tampering("name-that-is-no-text-added", lambda f: (f / os.fsdecode(b"a\xff")).touch(), "is not UTF-8"),
    Tampering("pipe-added", lambda f: os.mkfifo(f / "pipe"), "pipe is neither a file nor a folder"),
    Tampering("renamed", rename(WEIGHTS, "packages/cpu-openvino/weights.bin"), f"{WEIGHTS} is missing"),
    Tampering("case-changed", rename("report.json", "Report.json"), "Report.json does not belong"),
    Tampering("twin-in-another-case", add("Report.json"), "differ in case alone"),
    Tampering("symbolic-link", linked("symbolic"), f"{WEIGHTS} is a symbolic link"),
    Tampering("hard-link", linked("hard"), f"{WEIGHTS} is a hard link"),
    Tampering("linked-folder", linked_folder, "golden is a symbolic link"),
    Tampering(
        "linked-manifest",
        link_manifest,
        "no readable manifest.json",
    ),
    Tampering("folders-swapped", swap_folders, "tokenizer.json was changed"),
    Tampering("empty-bundle", empty, "no readable manifest.json"),
    Tampering("signature-stripped", remove(SIGNATURE), "it is unsigned"),
    Tampering("signature-foreign", lambda f: sign_bundle(f, Signer(FOREIGN)), "it is signed by another key"),
    Tampering(
        "signature-foreign-under-our-name",
        signature(
            lambda d: d["dsseEnvelope"]["signatures"][0].update(
                sig=base64.b64encode(sign_bytes(FOREIGN, pae(base64.b64decode(d["dsseEnvelope"]["payload"])))).decode()
            )
        ),
        "is not one by key",
    ),
    Tampering("signature-of-another-bundle", other_bundles_signature, f"{WEIGHTS} was not signed"),
    Tampering(
        "signature-bit",
        signature(
            lambda d: d["dsseEnvelope"]["signatures"][0].update(
                sig=base64.b64encode(
                    bytes(8) + base64.b64decode(d["dsseEnvelope"]["signatures"][0]["sig"])[8:]
                ).decode()
            )
        ),
        "is not one by key",
    ),
    Tampering("signature-empty", lambda f: (f / SIGNATURE).write_bytes(b""), "not sound JSON"),
    Tampering(
        "signature-without-signature",
        signature(lambda d: d["dsseEnvelope"].update(signatures=[])),
        "has not one signature",
    ),
    Tampering(
        "signature-twice",
        signature(lambda d: d["dsseEnvelope"]["signatures"].append({"sig": "AAAA"})),
        "has not one signature",
    ),
    Tampering(
        "signature-with-a-key-twice",
        lambda f: (f / SIGNATURE).write_text(
            (f / SIGNATURE).read_text().replace('"payloadType"', '"payload": "e30=", "payloadType"')
        ),
        "appears twice",
    ),
    Tampering(
        "signature-of-another-type",
        signature(lambda d: d["dsseEnvelope"].update(payloadType="text/plain")),
        "signs 'text/plain'",
    ),
    Tampering(
        "signature-in-another-format",
        signature(lambda d: d.update(mediaType="application/json")),
        "is of type 'application/json'",
    ),
    Tampering(
        "signature-names-no-key", signature(lambda d: d.update(verificationMaterial={})), "does not name one key"
    ),
    Tampering(
        "signature-keyless",
        signature(lambda d: d.update(verificationMaterial={"certificate": {"rawBytes": "AAAA"}, "tlogEntries": [{}]})),
        "keyless",
    ),
    Tampering(
        "statement-of-another-type",
        statement(lambda d: d.update(predicateType="https://example.com/x")),
        "is of type 'https://example.com/x'",
    ),
    Tampering("statement-about-nothing", statement(only()), "lists no file"),
    Tampering("statement-without-weights", statement(only(MANIFEST, "report.json")), f"{WEIGHTS} was not signed"),
    Tampering("statement-leads-out", statement(listed("../outside")), "has an empty part"),
    Tampering("statement-leads-to-root", statement(listed("/etc/passwd")), "absolute path"),
    Tampering("statement-with-nul", statement(listed("report.json\0.txt")), "NUL"),
    Tampering("statement-decomposed", statement(listed(DECOMPOSED)), "composed form"),
    Tampering("statement-with-backslash", statement(listed("packages\\model.bin")), "backslash"),
    Tampering("statement-in-disorder", statement(lambda d: d["predicate"]["resources"].reverse()), "out of order"),
    Tampering("statement-with-a-file-twice", statement(listed("report.json")), "twice"),
    Tampering("statement-with-links", statement(serialization(allow_symlinks=True)), "allows symbolic links"),
    Tampering("statement-with-shards", statement(serialization(method="shards", shard_size=10)), "whole files only"),
    Tampering("statement-with-another-hash", statement(serialization(hash_type="blake2b")), "hashes with 'blake2b'"),
    Tampering("statement-that-ignores-a-pattern", statement(serialization(ignore_paths=["*"])), "no plain path"),
    Tampering(
        "statement-with-another-root",
        statement(lambda d: d["subject"][0].update(digest={"sha256": "0" * 64})),
        "whose digest is not that of its files",
    ),
    Tampering("older-release", downgrade, "older than 4"),
    Tampering("report-forged", forge("report.json", PASS), "report.json is not the file that was signed"),
    Tampering("bom-forged", forge("bom.cdx.json", PASS), "bom.cdx.json is not the file that was signed"),
    Tampering("provenance-forged", forge("provenance.slsa.json", PASS), "provenance.slsa.json is not the file"),
    Tampering("weights-forged", forge(WEIGHTS, bytes(4096)), f"{WEIGHTS} is not the file that was signed"),
    Tampering("all-forged-and-signed-by-a-stranger", forge("report.json", PASS, FOREIGN), "signed by another key"),
    Tampering("manifest-with-a-key-twice", manifest_text('"sequence"', '"sequence": 9, "sequence"'), "appears twice"),
    Tampering("manifest-leads-out", in_manifest("../outside"), "has an empty part"),
    Tampering("manifest-leads-to-root", in_manifest("/etc/passwd"), "absolute path"),
    Tampering("manifest-with-nul", in_manifest("a\0b"), "NUL"),
    Tampering("manifest-decomposed", in_manifest(DECOMPOSED), "composed form"),
    Tampering("manifest-with-twins", in_manifest("REPORT.json"), "differ in case alone"),
    Tampering("manifest-lists-itself", in_manifest(MANIFEST), "is never listed"),
    Tampering(
        "manifest-of-a-newer-schema", lambda f: edit_manifest(f, lambda m: m.update(schema_version=99)), "has schema 99"
    ),
    Tampering("manifest-without-sequence", lambda f: edit_manifest(f, lambda m: m.pop("sequence")), "its sequence"),
    Tampering("manifest-without-sizes", lambda f: edit_manifest(f, lambda m: m.pop("sizes")), "one size of every file"),
    Tampering(
        "manifest-without-files",
        lambda f: edit_manifest(f, lambda m: m.update(files={}, sizes={})),
        "one size of every file",
    ),
    Tampering("manifest-of-nan", manifest_text(": 4,", ": NaN,"), "is not a number"),
    Tampering("manifest-too-deep", lambda f: (f / MANIFEST).write_text("[" * 100_000), "nested too deep"),
)
