"""A chain of certificates -> the key that signed, when the chain ends at a certificate the user trusts."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.x509.verification import ExtensionPolicy, PolicyBuilder, Store, VerificationError

from tapeout.signing_key import PublicKey, check_curve
from targets.errors import InputRefused, IntegrityError, UsageError

Kind = TypeVar("Kind", bound=x509.ExtensionType)
RENEW = "ask for a signature by a certificate that is valid, or trust another authority with --ca"


def load_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """The certificates in a PEM file.

    Raises:
        UsageError: the file cannot be read.
        InputRefused: it holds none.
    """
    try:
        return tuple(x509.load_pem_x509_certificates(path.read_bytes()))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "name a file of certificates in PEM") from error
    except ValueError as error:
        raise InputRefused(f"{path} holds no certificates in PEM: {error}", "export them again as PEM") from error


def trusted_key(
    chain: Sequence[bytes], anchors: Sequence[x509.Certificate], at: datetime.datetime
) -> tuple[PublicKey, str]:
    """(the key of the first certificate, its subject), when `chain` leads to one of `anchors`.

    Args:
        chain: DER, the signer's first.
        anchors: what the user trusts.
        at: when every certificate has to be valid.

    Raises:
        IntegrityError: the chain leads nowhere, a certificate is not valid at `at`, or the first may not sign code.
    """
    certificates = parse_chain(chain)
    leaf = certificates[0]
    name = leaf.subject.rfc4514_string()
    if not leaf.not_valid_before_utc <= at <= leaf.not_valid_after_utc:
        until = f"from {leaf.not_valid_before_utc:%Y-%m-%d} to {leaf.not_valid_after_utc:%Y-%m-%d}"
        raise IntegrityError(f"the certificate of {name} is valid {until}, not on {at:%Y-%m-%d}", RENEW)
    # The signer's own extensions are looked at below: the library's rules for it are those of web servers.
    builder = PolicyBuilder().store(Store(list(anchors))).time(at)
    policies = builder.extension_policies(
        ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=ExtensionPolicy.permit_all()
    )
    try:
        policies.build_client_verifier().verify(leaf, list(certificates[1:]))
    except VerificationError as error:
        raise IntegrityError(f"the certificate of {name} leads to none that is trusted: {error}", RENEW) from error
    check_usage(leaf, name)
    return chain_key(leaf), name


def parse_chain(chain: Sequence[bytes]) -> list[x509.Certificate]:
    """The certificates.

    Raises:
        IntegrityError: one is not a certificate.
    """
    try:
        return [x509.load_der_x509_certificate(each) for each in chain]
    except ValueError as error:
        raise IntegrityError(f"the signature has a certificate that cannot be read: {error}", RENEW) from error


def chain_key(leaf: x509.Certificate) -> PublicKey:
    """The key in a signer's certificate.

    Raises:
        IntegrityError: it is on no curve of OMS.
    """
    try:
        return check_curve(leaf.public_key(), "the signer's certificate")
    except InputRefused as error:
        raise IntegrityError(error.what, RENEW) from error


def check_usage(leaf: x509.Certificate, name: str) -> None:
    """Refuse a certificate that is not for signatures over code.

    Raises:
        IntegrityError: its key usage leaves out signatures, its extended key usage code, or it has neither.
    """
    usage = extension(leaf, x509.KeyUsage)
    extended = extension(leaf, x509.ExtendedKeyUsage)
    if usage is not None and not usage.digital_signature:
        raise IntegrityError(f"the certificate of {name} may not sign", RENEW)
    if extended is not None and x509.oid.ExtendedKeyUsageOID.CODE_SIGNING not in extended:
        raise IntegrityError(f"the certificate of {name} is not for code", RENEW)
    if usage is None and extended is None:
        raise IntegrityError(f"the certificate of {name} does not say that it may sign", RENEW)


def extension(leaf: x509.Certificate, kind: type[Kind]) -> Kind | None:
    """An extension's value, or None."""
    try:
        return leaf.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
