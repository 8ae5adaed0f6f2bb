"""Signatures by an independent writer, for test_tapeout_oms.py: model-signing, the OpenSSF's own implementation.

    python3.11 -m venv /tmp/oms && /tmp/oms/bin/pip install model-signing==1.1.1 pyOpenSSL==26.4.0
    /tmp/oms/bin/python tests/data/oms/make_vectors.py

(model-signing 1.1.1 imports pyOpenSSL without asking for it.) Keys are made, used and thrown away.
"""

import datetime
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, signing

HERE = Path(__file__).parent
MODEL = HERE / "model"
CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
PEM = serialization.Encoding.PEM
START, END = (datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in (2026, 2126))


def write_key(folder: Path, name: str, curve: ec.EllipticCurve) -> tuple[ec.EllipticCurvePrivateKey, Path]:
    """(the key, its file)."""
    key, path = ec.generate_private_key(curve), folder / f"{name}.pem"
    path.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return key, path


def certify(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    """A certificate for `key`."""
    names = [x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)]) for name in (subject, issuer)]
    builder = x509.CertificateBuilder(names[1], names[0], key.public_key(), x509.random_serial_number(), START, END)
    theirs = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    ours = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    for value, critical in [*extensions, (ours, False), (theirs, False)]:
        builder = builder.add_extension(value, critical)
    return builder.sign(issuer_key, hashes.SHA384())


def usage(**wanted: bool) -> tuple[x509.ExtensionType, bool]:
    """A key usage with what is `wanted`, and nothing else."""
    first = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    names = (*first, "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: wanted.get(name, False) for name in names}), True


def main() -> None:
    MODEL.mkdir(exist_ok=True)
    (MODEL / "sub").mkdir(exist_ok=True)
    (MODEL / "config.json").write_text('{"model_type": "llama"}\n')
    (MODEL / "sub" / "weights.bin").write_bytes(bytes(range(256)))
    with tempfile.TemporaryDirectory() as scratch:
        for name, curve in CURVES.items():
            key, path = write_key(Path(scratch), name, curve)
            public = key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            (HERE / f"{name}.pub.pem").write_bytes(public)
            configured = signing.Config().use_elliptic_key_signer(private_key=path)
            configured.set_hashing_config(hashing.Config()).sign(MODEL, HERE / f"{name}.sig")
        root, _ = write_key(Path(scratch), "root", CURVES["p384"])
        middle, _ = write_key(Path(scratch), "middle", CURVES["p384"])
        leaf, path = write_key(Path(scratch), "leaf", CURVES["p256"])
        ca = [(x509.BasicConstraints(ca=True, path_length=None), True), usage(key_cert_sign=True)]
        code = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CODE_SIGNING]), False
        leaf_extensions = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            usage(digital_signature=True),
            code,
        ]
        certificates = {
            "root": certify("Test root", root, "Test root", root, ca),
            "middle": certify("Test middle", middle, "Test root", root, ca),
            "leaf": certify("Test signer", leaf, "Test middle", middle, leaf_extensions),
        }
        for name, certificate in certificates.items():
            (Path(scratch) / f"{name}-cert.pem").write_bytes(certificate.public_bytes(PEM))
        (HERE / "root.pem").write_bytes(certificates["root"].public_bytes(PEM))
        configured = signing.Config().use_certificate_signer(
            private_key=path,
            signing_certificate=Path(scratch) / "leaf-cert.pem",
            certificate_chain=[Path(scratch) / "middle-cert.pem"],
        )
        configured.set_hashing_config(hashing.Config()).sign(MODEL, HERE / "certificate.sig")


if __name__ == "__main__":
    main()
