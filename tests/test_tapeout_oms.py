"""The OMS format against signatures of an independent writer, and the specification's own when they are here."""

import datetime
import os
from pathlib import Path

import pytest
from cryptography.x509 import load_der_x509_certificate

from export.digest import list_files
from tapeout.certificates import load_certificates, trusted_key
from tapeout.oms_bundle import pae, read_envelope
from tapeout.oms_statement import read_statement, root_digest
from tapeout.signing_key import hint, is_signed, load_public_key
from targets.errors import IntegrityError

DATA = Path(__file__).parent / "data" / "oms"
# A folder like `test-vectors` of the specification's repository; docs/bundle.md says how to run them.
OFFICIAL = os.environ.get("TAPEOUT_OMS_VECTORS")
FIRST = "bc9a717db6064a32cbe9eae6fc40651dd6d36ef1757183f590eff2b1765d7ebc"
SECOND = "32dcb1f8e1ae52d5963e56a6ba06ab58b424c15ed2a6b70d2feca1d089370028"
NOW = datetime.datetime.now(datetime.UTC)


@pytest.mark.parametrize("curve", ["p256", "p384", "p521"])
def test_a_signature_of_model_signing_is_accepted(curve: str) -> None:
    envelope = read_envelope((DATA / f"{curve}.sig").read_bytes())
    key = load_public_key(DATA / f"{curve}.pub.pem")
    assert envelope.hint == hint(key)
    assert is_signed(key, envelope.signature, pae(envelope.payload))
    statement = read_statement(envelope.payload)
    assert (statement.name, statement.files) == ("model", list_files(DATA / "model"))


def test_a_certificate_chain_of_model_signing_is_accepted() -> None:
    envelope = read_envelope((DATA / "certificate.sig").read_bytes())
    key, name = trusted_key(envelope.certificates, load_certificates(DATA / "root.pem"), NOW)
    assert name == "CN=Test signer"
    assert is_signed(key, envelope.signature, pae(envelope.payload))
    assert read_statement(envelope.payload).files == list_files(DATA / "model")


def test_the_wrong_key_and_a_changed_payload_are_refused() -> None:
    envelope = read_envelope((DATA / "p256.sig").read_bytes())
    key = load_public_key(DATA / "p256.pub.pem")
    assert not is_signed(load_public_key(DATA / "p384.pub.pem"), envelope.signature, pae(envelope.payload))
    assert not is_signed(key, envelope.signature, pae(envelope.payload + b" "))
    assert not is_signed(key, envelope.signature, envelope.payload)


def test_the_root_digest_is_that_of_the_specification() -> None:
    """The figures of its test vectors."""
    files = {"signme-2": SECOND, "signme-1": FIRST}
    assert root_digest(files) == "92745110b1ab4368471cbe31664e10174e954b113a3df333db860317b2c6dec4"


def official() -> list[Path]:
    """The specification's vectors, as far as they are here."""
    return sorted(Path(OFFICIAL).rglob("*.bundle.json")) if OFFICIAL else []


@pytest.mark.skipif(not OFFICIAL, reason="TAPEOUT_OMS_VECTORS names no folder")
def test_the_specifications_vectors_end_as_it_says() -> None:
    found = official()
    assert len(found) >= 8
    for path in found:
        if path.parent.name == "invalid":
            with pytest.raises(IntegrityError):
                read_envelope(path.read_bytes())
            continue
        envelope = read_envelope(path.read_bytes())
        if path.parent.name == "invalid-payload":
            with pytest.raises(IntegrityError):
                read_statement(envelope.payload)
        else:
            assert read_statement(envelope.payload).files
            if envelope.certificates and not envelope.keyless:
                # The root is not among them: trust what is nearest to it.
                anchor = load_der_x509_certificate(envelope.certificates[-1])
                key, _ = trusted_key(envelope.certificates, [anchor], NOW)
                assert is_signed(key, envelope.signature, pae(envelope.payload))
