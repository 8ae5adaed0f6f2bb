"""The file around a statement: a DSSE envelope with its signature, in a Sigstore bundle.

The Sigstore bundle is version 0.3; DSSE is version 1.0. A bundle names a key by its hint, or carries a chain of
certificates, the signer's first. Sigstore's keyless bundles are recognised and never trusted: they need a
transparency log.
"""

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any

from export.strict_json import parse_object
from targets.errors import InputRefused, IntegrityError

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
MEDIA_TYPES = re.compile(r"application/vnd\.dev\.sigstore\.bundle(\.v0\.[1-3]\+json|\+json;version=0\.[1-3])", re.ASCII)
PAYLOAD_TYPE = "application/vnd.in-toto+json"
METHODS = ("publicKey", "x509CertificateChain", "certificate")
OPTIONAL = frozenset({"tlogEntries", "timestampVerificationData"})
CERTIFICATES_MAX = 10


@dataclass(frozen=True)
class Envelope:
    """A signature file, parsed and not verified.

    Attributes:
        payload: the signed statement.
        signature: over its pre-authentication encoding.
        hint: names the key; None with certificates, and in bundles before 1.1.0.
        certificates: DER, the signer's first; () when a key signed.
        keyless: it is one of Sigstore's, with a transparency log.
    """

    payload: bytes
    signature: bytes
    hint: str | None = None
    certificates: tuple[bytes, ...] = ()
    keyless: bool = False


def pae(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed in place of `payload`."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def write_envelope(envelope: Envelope) -> bytes:
    """The file, for a key or for a chain of certificates."""
    if envelope.certificates:
        chain = [{"rawBytes": encode(each)} for each in envelope.certificates]
        material: dict[str, Any] = {"x509CertificateChain": {"certificates": chain}}
    else:
        material = {"publicKey": {"hint": envelope.hint}}
    document = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {**material, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": encode(envelope.payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": encode(envelope.signature), "keyid": ""}],
        },
    }
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def read_envelope(data: bytes) -> Envelope:
    """The signature in a file.

    Raises:
        IntegrityError: the file is not an OMS bundle.
    """
    try:
        document = parse_object(data, "the signature")
    except InputRefused as error:
        raise IntegrityError(error.what, "ask for the signature again") from error
    if set(document) != {"mediaType", "verificationMaterial", "dsseEnvelope"}:
        raise broken("has other fields than an OMS bundle")
    media = document["mediaType"]
    if not isinstance(media, str) or not MEDIA_TYPES.fullmatch(media):
        raise broken(f"is of type {media!r}")
    payload, signature = read_dsse(document["dsseEnvelope"])
    method, found, logged = read_material(document["verificationMaterial"])
    if method == "publicKey":
        return Envelope(payload, signature, hint=read_hint(found))
    if method == "x509CertificateChain":
        return Envelope(payload, signature, certificates=read_chain(found.get("certificates")))
    if not logged:
        raise broken("is a keyless one without an entry of a transparency log")
    return Envelope(payload, signature, certificates=read_chain([found]), keyless=True)


def read_material(found: Any) -> tuple[str, dict[str, Any], bool]:
    """(method, what it is verified with, whether a transparency log has an entry of it)."""
    methods = [name for name in METHODS if isinstance(found, dict) and name in found]
    if len(methods) != 1 or set(found) - OPTIONAL != set(methods) or not isinstance(found[methods[0]], dict):
        raise broken("does not name one key, or one chain of certificates")
    entries = found.get("tlogEntries", [])
    if not isinstance(entries, list):
        raise broken("has tlogEntries that are no list")
    return methods[0], found[methods[0]], bool(entries)


def read_dsse(found: Any) -> tuple[bytes, bytes]:
    """(payload, signature)."""
    if not isinstance(found, dict) or set(found) != {"payload", "payloadType", "signatures"}:
        raise broken("has no DSSE envelope")
    signatures = found["signatures"]
    if found["payloadType"] != PAYLOAD_TYPE:
        raise broken(f"signs {found['payloadType']!r}, not {PAYLOAD_TYPE}")
    if not isinstance(signatures, list) or len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise broken("has not one signature")
    (one,) = signatures
    if set(one) - {"sig", "keyid"} or not isinstance(one.get("keyid"), str | None):
        raise broken("has a signature with other fields than DSSE's")
    return decode(found["payload"], "payload"), decode(one.get("sig"), "signature")


def read_hint(found: dict[str, Any]) -> str | None:
    """The key's name; None in old bundles, which hold the key's bytes: those prove nothing, and are not used."""
    value = found.get("hint")
    if value is None and isinstance(found.get("rawBytes"), str):
        return None
    if not isinstance(value, str):
        raise broken("names no key")
    return value


def read_chain(found: Any) -> tuple[bytes, ...]:
    """Certificates in DER."""
    if not isinstance(found, list) or not 1 <= len(found) <= CERTIFICATES_MAX:
        raise broken(f"has not between one and {CERTIFICATES_MAX} certificates")
    return tuple(decode(each.get("rawBytes") if isinstance(each, dict) else None, "certificate") for each in found)


def encode(data: bytes) -> str:
    """Base64."""
    return base64.b64encode(data).decode()


def decode(text: Any, what: str) -> bytes:
    """The bytes of a Base64 text that is not empty."""
    try:
        data = base64.b64decode(text if isinstance(text, str) else "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise broken(f"has a {what} that is not Base64") from error
    if not data:
        raise broken(f"has no {what}")
    return data


def broken(what: str) -> IntegrityError:
    """The error of a file that is no OMS bundle."""
    return IntegrityError(f"the signature {what}", "ask for the signature again")
