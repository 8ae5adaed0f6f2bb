"""Hold a bundle against its manifest and its signature, without a network: every finding, not just the first."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from cryptography import x509

from export.strict_json import parse_object
from tapeout.bundle_tree import Tree, read_tree, shown
from tapeout.certificates import parse_chain, trusted_key
from tapeout.chain import CHAIN, Checked, check_chain, source_of
from tapeout.claims import Held, hold_claims, pci_devices
from tapeout.manifest import MANIFEST, SIGNATURE, compare, manifest_bytes, parse_manifest
from tapeout.oms_bundle import Envelope, pae, read_envelope
from tapeout.oms_statement import Statement, read_statement
from tapeout.signing_key import PublicKey, hint, is_signed
from targets.errors import InputRefused, IntegrityError, TapeoutError, UsageError
from targets.probe import probe_host


class Seal(StrEnum):
    """What a bundle's signature says of it."""

    UNSIGNED = "unsigned"
    UNCHECKED = "signed, by whom was not checked"
    TRUSTED = "signed and trusted"
    REFUSED = "refused"


@dataclass(frozen=True)
class Demands:
    """What the user asks of a bundle beside being whole.

    Attributes:
        key: it has to be signed with this one.
        anchors: or by a certificate that one of these vouches for.
        signature: where the signature is; `model.sig` in the bundle when None.
        strict: it has to be signed, and by somebody named.
        sequence: the oldest release that is accepted.
        source: identity of the model it has to come from, as `source_identity` has it; None for any.
        at: when certificates have to be valid.
    """

    key: PublicKey | None = None
    anchors: tuple[x509.Certificate, ...] = ()
    signature: Path | None = None
    strict: bool = False
    sequence: int = 0
    source: Mapping[str, str] | None = None
    at: datetime.datetime | None = None


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        findings: every reason to refuse the bundle, one sentence each; () when it is whole.
        seal: the state of its signature.
        signer: who signed, when that was checked.
        files: how many.
        size: of them, in bytes.
        manifest: of the bundle, or None when it could not be read.
        chain: from the source to the packages, one line a link.
        held: what the packages ask of this machine; no part of the findings.
    """

    findings: tuple[str, ...]
    seal: Seal
    signer: str | None
    files: int
    size: int
    manifest: Mapping[str, Any] | None
    chain: tuple[str, ...] = ()
    held: tuple[Held, ...] = ()


def inspect_bundle(bundle: Path, demands: Demands) -> Inspection:
    """Everything that is wrong with a bundle.

    Raises:
        UsageError: there is no such folder.
    """
    findings: list[str] = []
    chain = Checked((), ())
    held: tuple[Held, ...] = ()
    manifest: dict[str, Any] | None = None
    if not bundle.is_dir():
        raise UsageError(f"{bundle} is not a folder", "name the folder of a bundle")
    data = b""
    try:
        data = manifest_bytes(bundle)
        manifest = parse_manifest(data, bundle)
    except IntegrityError as error:
        findings.append(error.what)
    try:
        tree = read_tree(bundle, {MANIFEST, SIGNATURE, CHAIN}, manifest["sizes"] if manifest else {})
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}", "look at its permissions") from error
    findings += tree.faults
    if manifest is not None:
        if tree.kept.get(MANIFEST) != data:
            findings.append(f"{MANIFEST} changed while it was read")
        findings += [*compare(manifest, tree), *sequence_faults(manifest, demands)]
        chain = check_links(tree, manifest, demands)
        held, faults = check_claims(manifest)
        findings += [*chain.findings, *faults]
    seal, signer, faults = check_seal(tree, demands)
    if manifest is None:
        # No file was read but the signature: which of them differ is not known, that the bundle is refused is.
        faults, seal, signer = [], Seal.UNSIGNED if seal is Seal.UNSIGNED else Seal.REFUSED, None
    size = sum(seen.size for seen in tree.files.values())
    return Inspection((*findings, *faults), seal, signer, len(tree.files), size, manifest, chain.transcript, held)


def sequence_faults(manifest: Mapping[str, Any], demands: Demands) -> list[str]:
    """Whether the bundle is an older release than is asked for."""
    if manifest["sequence"] >= demands.sequence:
        return []
    return [f"its sequence is {manifest['sequence']}, older than {demands.sequence}, which is required"]


def check_links(tree: Tree, manifest: Mapping[str, Any], demands: Demands) -> Checked:
    """The chain of digests, computed again; and whether it starts at the source that was asked for."""
    if CHAIN not in tree.kept:
        return Checked((), (f"{CHAIN} is missing, or too large",))
    try:
        chain = parse_object(tree.kept[CHAIN], CHAIN)
    except InputRefused as error:
        return Checked((), (error.what,))
    try:
        checked = check_chain(chain, manifest["files"])
    except (UnicodeEncodeError, RecursionError):
        return Checked((), (f"{CHAIN} holds what no stage writes: text that is not Unicode, or nested too deep",))
    if demands.source is None or checked.findings:
        return checked
    found = source_of(chain)
    other = [name for name in ("sha256", "id", "revision") if found.get(name) != demands.source.get(name)]
    faults = [f"it was made from another model: {name} is {found.get(name)}" for name in other]
    return Checked(checked.transcript, tuple(faults))


def check_claims(manifest: Mapping[str, Any]) -> tuple[tuple[Held, ...], list[str]]:
    """(what the packages ask of this machine and whether it has it, findings)."""
    try:
        return hold_claims(manifest["claims"], probe_host(), pci_devices()), []
    except (KeyError, TypeError, ValueError, AttributeError):
        return (), [f"{MANIFEST} does not say, in words of this release, what the packages ask of a machine"]


def check_seal(tree: Tree, demands: Demands) -> tuple[Seal, str | None, list[str]]:
    """(state of the signature, who signed, findings)."""
    wanted = demands.key is not None or bool(demands.anchors)
    try:
        data = signature_bytes(tree, demands)
        if data is None:
            asked = "a key or an authority was named" if wanted else "--strict asks for a signature"
            return Seal.UNSIGNED, None, [f"it is unsigned, and {asked}"] if wanted or demands.strict else []
        envelope = read_envelope(data)
        signer = check_signer(envelope, demands)
        faults = statement_faults(read_statement(envelope.payload), tree)
    except TapeoutError as error:
        return Seal.REFUSED, None, [error.what]
    if faults:
        return Seal.REFUSED, None, faults
    if signer is None:
        strict = "who signed was not checked: --strict asks for --key or --ca"
        return Seal.UNCHECKED, None, [strict] if demands.strict else []
    return Seal.TRUSTED, signer, []


def signature_bytes(tree: Tree, demands: Demands) -> bytes | None:
    """The signature file, or None.

    Raises:
        UsageError: the user named one that is not there.
        IntegrityError: the bundle's is too large to be one.
    """
    if demands.signature is not None:
        try:
            return demands.signature.read_bytes()
        except OSError as error:
            raise UsageError(f"{demands.signature} cannot be read: {error.strerror}", "check --signature") from error
    if SIGNATURE in tree.files and SIGNATURE not in tree.kept:
        raise IntegrityError(f"{SIGNATURE} is too large for a signature", "ask for the signature again")
    return tree.kept.get(SIGNATURE)


def check_signer(envelope: Envelope, demands: Demands) -> str | None:
    """Who signed; None when the user named nobody to trust.

    Raises:
        IntegrityError: it was somebody else, or the signature is not over this statement.
    """
    ask = "ask the signer for the right key or certificate"
    if envelope.keyless:
        raise IntegrityError("the signature is a keyless one, which cannot be checked offline", "ask for one by a key")
    if envelope.certificates and demands.anchors:
        at = demands.at or datetime.datetime.now(datetime.UTC)
        key, name = trusted_key(envelope.certificates, demands.anchors, at)
    elif demands.key is not None:
        key, name = demands.key, f"key {hint(demands.key)[:16]}"
        if envelope.hint is not None and envelope.hint != hint(key):
            raise IntegrityError(f"it is signed by another key, {shown(envelope.hint[:16])}, not by {name}", ask)
    elif demands.anchors:
        raise IntegrityError("it is signed by a key without a certificate, and --ca asks for one", ask)
    else:
        check_own_certificate(envelope)
        return None
    if not is_signed(key, envelope.signature, pae(envelope.payload)):
        raise IntegrityError(f"the signature is not one by {name} over this statement", ask)
    return name


def check_own_certificate(envelope: Envelope) -> None:
    """Where nobody is trusted a certificate can still be held against its own signature.

    Raises:
        IntegrityError: they do not fit.
    """
    if not envelope.certificates:
        return
    key = parse_chain(envelope.certificates)[0].public_key()
    fits = isinstance(key, PublicKey) and is_signed(key, envelope.signature, pae(envelope.payload))
    if not fits:
        raise IntegrityError("the signature does not fit its own certificate", "ask for the signature again")


def statement_faults(statement: Statement, tree: Tree) -> list[str]:
    """What of the bundle is not as it was signed. Nothing but the signature itself may be left out of it."""
    found = {path: seen.sha256 for path, seen in tree.files.items() if path != SIGNATURE}
    both = found.keys() & statement.files.keys()
    changed = [
        f"{path} is not the file that was signed" for path in sorted(both) if found[path] != statement.files[path]
    ]
    missing = [f"{path} was signed and is missing" for path in sorted(statement.files.keys() - found.keys())]
    extra = [f"{shown(path)} was not signed" for path in sorted(found.keys() - statement.files.keys())]
    return [*changed, *missing, *extra]
