"""Sign a bundle with a key that needs no network: an OMS 1.0 signature over every file, beside them."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tapeout.bundle_tree import read_tree
from tapeout.durable_files import write_whole
from tapeout.manifest import MANIFEST, SIGNATURE, compare, read_manifest
from tapeout.oms_bundle import Envelope, pae, write_envelope
from tapeout.oms_statement import NEVER_SIGNED, Statement, write_statement
from tapeout.signing_key import PrivateKey, hint, sign_bytes
from tapeout.storage_errors import storage_errors
from targets.errors import IntegrityError

REBUILD = "build the bundle again, then sign it"


@dataclass(frozen=True)
class Signer:
    """Who signs.

    Attributes:
        key: the private key.
        certificates: DER, that of the key first; () to be known by the key itself.
    """

    key: PrivateKey
    certificates: tuple[bytes, ...] = ()


def sign_bundle(bundle: Path, signer: Signer, out: Path | None = None) -> Path:
    """Write the signature of a bundle that is as its manifest says; the path of the signature.

    Args:
        bundle: its folder.
        signer: the key.
        out: where the signature goes; `model.sig` in the bundle when None.

    Raises:
        IntegrityError: the bundle is not what was built, so nobody should sign it.
        NoSpace: the signature cannot be written.
    """
    manifest = read_manifest(bundle)
    tree = read_tree(bundle, {MANIFEST}, manifest["sizes"])
    wrong = [*tree.faults, *compare(manifest, tree)]
    if wrong:
        raise IntegrityError(f"{bundle}: {'; '.join(wrong[:3])}", REBUILD)
    files = {path: str(seen.sha256) for path, seen in tree.files.items() if path != SIGNATURE}
    path = out or bundle / SIGNATURE
    data = signature_of(bundle.resolve().name, files, signer)
    if not path.is_file() or path.read_bytes() != data:
        write_signature(path, data, bundle)
    return path


def signature_of(name: str, files: Mapping[str, str], signer: Signer) -> bytes:
    """The signature file over `files` (SHA-256 by path); the same for the same key, name and files."""
    payload = write_statement(Statement(name, files, (*NEVER_SIGNED, SIGNATURE)))
    signature = sign_bytes(signer.key, pae(payload))
    return write_envelope(Envelope(payload, signature, hint(signer.key.public_key()), signer.certificates))


def write_signature(path: Path, data: bytes, bundle: Path) -> None:
    """Put a signature in its place at once; a crash leaves nothing in the bundle that does not belong there."""
    beside = bundle.resolve().parent if path.resolve().is_relative_to(bundle.resolve()) else path.absolute().parent
    temporary = beside / f".{path.name}.{secrets.token_hex(4)}"
    with storage_errors(path.parent, "name another place with --out"):
        try:
            write_whole(path, data, temporary)
            path.chmod(0o644)
        finally:
            temporary.unlink(missing_ok=True)
