"""A small bundle with every kind of file in it, and keys and certificates to sign it with."""

import datetime
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from export.digest import digest_file, digest_files, digest_value, list_files
from export.strict_json import write_json
from tapeout.chain import CHAIN, write_chain
from tapeout.manifest import MANIFEST, SCHEMA_VERSION, UNLISTED
from tapeout.signing_key import PrivateKey
from tapeout.stage_key import stage_key

PEM = serialization.Encoding.PEM
WEIGHTS = "packages/cpu-openvino/model.bin"
FILES: Mapping[str, bytes] = {
    WEIGHTS: bytes(range(256)) * 16,
    "packages/cpu-openvino/tokenizer.json": b'{"model": {}}\n',
    "packages/cpu-onnxruntime/model.onnx": b"onnx" * 100,
    "packages/cpu-onnxruntime/tokenizer.json": b'{"model": {"other": 1}}\n',
    "golden/golden.npz": b"PK" + bytes(500),
    "report.json": b'{"verdict": "FAIL"}\n',
    "report.html": b"<!doctype html><p>FAIL</p>\n",
    "bom.cdx.json": b'{"bomFormat": "CycloneDX"}\n',
    "provenance.slsa.json": b'{"_type": "https://in-toto.io/Statement/v1"}\n',
}
SEQUENCE = 4
CLAIM: Mapping[str, Any] = {
    "kind": "cpu",
    "generation": "any",
    "architecture": "any",
    "instruction_sets": [],
    "runtimes": {},
    "glibc": "2.17",
    "requires": {},
}


def write_bundle(folder: Path, files: Mapping[str, bytes] = FILES) -> Path:
    """The bundle at `folder`."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    write_links(folder)
    write_manifest(folder)
    return folder


def write_manifest(folder: Path, **changes: Any) -> None:
    """A manifest that fits whatever is in `folder`, as an attacker without a key would make it too."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {name: digest_file(path) for name, path in found.items() if name not in UNLISTED}
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "sequence": SEQUENCE,
        "packages": {"packages/cpu-openvino": {"device": "cpu"}},
        "claims": {"packages/cpu-openvino": CLAIM},
        "files": files,
        "sizes": {name: found[name].stat().st_size for name in files},
        **changes,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def write_links(folder: Path) -> None:
    """A chain of two links for each folder of packages, with real keys and digests."""
    source = link("import", {"source": {"name": "tiny", "kind": "gguf", "sha256": "5" * 64}}, {}, {"a": "6" * 64})
    output = digest_value({"object": digest_files(source["files"]), "value": source["value"]})
    links, ends = [source], {}
    for path in sorted((folder / "packages").iterdir()):
        made = link("compile", {"backend": path.name}, {"model": output}, list_files(path))
        links.append(made)
        ends[f"packages/{path.name}"] = made["key"]
    write_json(folder / CHAIN, write_chain(links, ends))


def link(stage: str, parameters: dict[str, Any], inputs: dict[str, str], files: dict[str, str]) -> dict[str, Any]:
    """A link as a stage would leave it."""
    tools = {"numpy": "1"}
    return {
        "label": "",
        "stage": stage,
        "version": "v1",
        "parameters": parameters,
        "inputs": inputs,
        "tools": tools,
        "value": {"n": 1},
        "files": files,
        "key": stage_key(stage, "v1", parameters, inputs, tools),
    }


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Let `change` edit the manifest as JSON."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def write_key(key: PrivateKey, path: Path, passphrase: str | None = None) -> Path:
    """The key as PKCS#8, for its owner's eyes only."""
    encryption = (
        serialization.NoEncryption()
        if passphrase is None
        else serialization.BestAvailableEncryption(passphrase.encode())
    )
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, encryption))
    return path


def write_public(key: PrivateKey, path: Path) -> Path:
    """Its public half."""
    path.write_bytes(key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return path


def usage(*wanted: str) -> x509.KeyUsage:
    first = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    names = (*first, "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: name in wanted for name in names})


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])


def certify(
    name: str,
    key: PrivateKey,
    issuer: tuple[x509.Name, PrivateKey] | None = None,
    *,
    authority: bool = False,
    days: tuple[int, int] = (-1, 365),
    purpose: x509.ObjectIdentifier = x509.oid.ExtendedKeyUsageOID.CODE_SIGNING,
) -> x509.Certificate:
    """A certificate for `key`, valid from and until so many days from now; its own issuer without an `issuer`."""
    by, by_key = issuer or (named(name), key)
    now = datetime.datetime.now(datetime.UTC)
    start, end = (now + datetime.timedelta(days=day) for day in days)
    builder = (
        x509.CertificateBuilder(by, named(name), key.public_key(), x509.random_serial_number(), start, end)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(usage("key_cert_sign" if authority else "digital_signature"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by_key.public_key()), critical=False)
    )
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return builder.sign(by_key, hashes.SHA384())


def new_key() -> PrivateKey:
    return ec.generate_private_key(ec.SECP256R1())
