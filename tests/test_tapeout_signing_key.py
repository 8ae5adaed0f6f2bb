"""Private keys: which are taken, and which are refused."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tapeout.signing_key import load_private_key
from targets.errors import InputRefused, UsageError
from tests.tiny_bundle import new_key, write_key

KEY = new_key()


def test_keys_that_others_can_read_or_that_oms_does_not_name_are_refused(tmp_path: Path) -> None:
    open_key = write_key(KEY, tmp_path / "open.pem")
    open_key.chmod(0o640)
    with pytest.raises(UsageError, match="can be read by others"):
        load_private_key(open_key, lambda: "")
    locked = write_key(KEY, tmp_path / "locked.pem", "right")
    with pytest.raises(UsageError, match="cannot be opened"):
        load_private_key(locked, lambda: "wrong")
    assert load_private_key(locked, lambda: "right").private_numbers() == KEY.private_numbers()
    koblitz = write_key(ec.generate_private_key(ec.SECP256K1()), tmp_path / "k1.pem")
    edwards = tmp_path / "ed.pem"
    edwards.touch(mode=0o600)
    edwards.write_bytes(
        ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    old = tmp_path / "old.pem"
    old.touch(mode=0o600)
    old.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    for path in (koblitz, edwards):
        with pytest.raises(InputRefused, match="P-256, P-384 or P-521"):
            load_private_key(path, lambda: "")
    with pytest.raises(InputRefused, match="PKCS#8"):
        load_private_key(old, lambda: "")
