"""Keys that sign bundles: NIST curves P-256, P-384 and P-521, which is what the OMS registry names."""

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from targets.errors import InputRefused, UsageError

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

# By curve: the hash that goes with it in Sigstore's registry.
HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
    "secp521r1": hashes.SHA512,
}
PLAIN = b"-----BEGIN PRIVATE KEY-----"
ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
MAKE_KEY = "make one with: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -aes256 -out key.pem"
KEY_BYTES_MAX = 1 << 16


def load_private_key(path: Path, passphrase: Callable[[], str]) -> PrivateKey:
    """The key in a PKCS#8 PEM file that nobody but its owner can read; `passphrase` is asked when it is encrypted.

    Raises:
        UsageError: there is no such file, others can read it, or the passphrase is wrong.
        InputRefused: it is not PKCS#8, or not on a curve that OMS names.
    """
    data = read_private(path)
    if not data.lstrip().startswith((PLAIN, ENCRYPTED)):
        step = "convert it with: openssl pkcs8 -topk8 -in OLD -out NEW" if b"PRIVATE KEY" in data else MAKE_KEY
        raise InputRefused(f"{path} is not a PKCS#8 private key in PEM", step)
    secret = passphrase().encode() if data.lstrip().startswith(ENCRYPTED) else None
    try:
        key = serialization.load_pem_private_key(data, secret)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path} cannot be opened: {error}", "check the passphrase and the file") from error
    if not isinstance(key, PrivateKey) or key.curve.name not in HASHES:
        raise InputRefused(f"{path} is not a key on P-256, P-384 or P-521, the curves of OMS", MAKE_KEY)
    return key


def read_private(path: Path) -> bytes:
    """The bytes of a file that nobody but its owner can read.

    Raises:
        UsageError: others can read it, or it cannot be read at all.
    """
    try:
        with path.open("rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
                raise UsageError(f"{path} can be read by others than its owner", f"run: chmod 600 {path}")
            if found.st_uid not in (0, os.geteuid()):
                raise UsageError(f"{path} belongs to another user", "use a key of your own")
            return stream.read(KEY_BYTES_MAX)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", MAKE_KEY) from error


def load_public_key(path: Path) -> PublicKey:
    """The key in a PEM file.

    Raises:
        UsageError: there is no such file.
        InputRefused: it holds no public key on a curve that OMS names.
    """
    try:
        data = path.read_bytes()[:KEY_BYTES_MAX]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "name the signer's public key") from error
    step = "make it with: openssl pkey -in key.pem -pubout -out pub.pem"
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputRefused(f"{path} is not a public key in PEM", step) from error
    return check_curve(key, str(path))


def check_curve(key: object, where: str) -> PublicKey:
    """The key, when it is on a curve that OMS names.

    Raises:
        InputRefused: it is not.
    """
    if not isinstance(key, PublicKey) or key.curve.name not in HASHES:
        raise InputRefused(f"{where} is not a key on P-256, P-384 or P-521", "OMS 1.0 names no other")
    return key


def hint(key: PublicKey) -> str:
    """What a signature names its key by: SHA-256 over the PEM of its SubjectPublicKeyInfo, as model-signing has it."""
    encoded = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).hexdigest()


def sign_bytes(key: PrivateKey, data: bytes) -> bytes:
    """An ECDSA signature in DER, with RFC 6979's nonce: the same key and data give the same bytes."""
    return key.sign(data, ec.ECDSA(HASHES[key.curve.name](), deterministic_signing=True))


def is_signed(key: PublicKey, signature: bytes, data: bytes) -> bool:
    """Whether `signature` is one over `data` by the private half of `key`."""
    try:
        key.verify(signature, data, ec.ECDSA(HASHES[key.curve.name]()))
    except InvalidSignature:
        return False
    return True
