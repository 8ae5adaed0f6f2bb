"""`tapeout verify` accepts the bundle that was signed and refuses it after every way of tampering with it."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from tapeout.chain import CHAIN
from tapeout.cli_seal import describe
from tapeout.manifest import SIGNATURE
from tapeout.sign import Signer, sign_bundle
from tapeout.signing_key import hint
from tapeout.verify import Demands, Inspection, Seal, inspect_bundle
from targets.errors import IntegrityError
from tests.tamperings import FOREIGN, GIB, KEY, PASS, TAMPERINGS, Tampering, add, downgrade, flip, forge, remove
from tests.tiny_bundle import (
    SEQUENCE,
    WEIGHTS,
    certify,
    edit_manifest,
    new_key,
    write_bundle,
    write_key,
    write_manifest,
    write_public,
)

DEMANDS = Demands(key=KEY.public_key(), sequence=SEQUENCE, strict=True)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens a socket fails."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, signed."""
    folder = write_bundle(tmp_path_factory.mktemp("signed") / "bundle")
    sign_bundle(folder, Signer(KEY))
    return folder


@pytest.fixture
def bundle(signed: Path, tmp_path: Path) -> Path:
    """A copy to tamper with."""
    return shutil.copytree(signed, tmp_path / "bundle")


def findings(folder: Path, demands: Demands = DEMANDS) -> str:
    return "\n".join(inspect_bundle(folder, demands).findings)


def test_the_bundle_as_it_was_signed_is_accepted(bundle: Path) -> None:
    found = inspect_bundle(bundle, DEMANDS)
    assert found.findings == ()
    assert (found.seal, found.signer) == (Seal.TRUSTED, f"key {hint(KEY.public_key())[:16]}")
    assert found.files == 12


def test_there_are_enough_tamperings() -> None:
    assert len({each.name for each in TAMPERINGS}) == len(TAMPERINGS) >= 40


@pytest.mark.parametrize("tampering", TAMPERINGS, ids=lambda each: each.name)
def test_a_tampered_bundle_is_refused(tampering: Tampering, bundle: Path) -> None:
    tampering.change(bundle)
    assert tampering.said in findings(bundle)


def rewrite_chain(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / CHAIN).read_text()
        assert old in text
        (folder / CHAIN).write_text(text.replace(old, new))
        write_manifest(folder)

    return change


def claim(**changes: Any) -> Callable[[Path], None]:
    """A manifest that asks strange things of a machine."""
    return lambda folder: edit_manifest(folder, lambda found: found["claims"]["packages/cpu-openvino"].update(changes))


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a chain that fits nothing": (rewrite_chain('"v1"', '"v2"'), "the key of import"),
    "a chain with half a character": (rewrite_chain('"n": 1', '"n": "\\ud800"'), "not Unicode"),
    "a chain of depth": (rewrite_chain('"n": 1', f'"n": {"[" * 9000}{"]" * 9000}'), "nested too deep"),
    "claims of numbers": (claim(glibc=5), "does not say, in words of this release"),
    "claims of nobody": (claim(runtimes={"": "1"}), "does not say, in words of this release"),
    "claims of a list": (claim(kind="npu", requires={"platform": []}), "does not say, in words of this release"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_unsigned_bundle_that_says_strange_things_is_refused_and_harms_nobody(name: str, bundle: Path) -> None:
    change, said = HOSTILE[name]
    change(bundle)
    remove(SIGNATURE)(bundle)
    assert said in findings(bundle, Demands())


def test_a_terminal_gets_no_escapes_of_a_bundle(bundle: Path) -> None:
    claim(runtimes={"\x1b]0;owned\x07": "1"})(bundle)
    found = inspect_bundle(bundle, Demands())
    assert found.held
    assert "\x1b" not in describe(bundle, found)


def test_every_finding_is_listed(bundle: Path) -> None:
    flip(WEIGHTS)(bundle)
    remove("report.json")(bundle)
    add("extra")(bundle)
    said = findings(bundle)
    for finding in (f"{WEIGHTS} was changed", "report.json is missing", "extra does not belong"):
        assert finding in said


def test_a_forged_bundle_without_a_signature_passes_unless_a_key_is_asked_for(bundle: Path) -> None:
    """The limit of digests alone, and why a signature is needed."""
    forge("report.json", PASS)(bundle)
    remove(SIGNATURE)(bundle)
    unasked = inspect_bundle(bundle, Demands())
    assert (unasked.findings, unasked.seal) == ((), Seal.UNSIGNED)
    assert "unsigned" in findings(bundle, Demands(strict=True))
    assert "unsigned" in findings(bundle, DEMANDS)


def test_a_signature_that_nobody_checked_is_called_so(bundle: Path) -> None:
    unasked = inspect_bundle(bundle, Demands())
    assert (unasked.findings, unasked.seal, unasked.signer) == ((), Seal.UNCHECKED, None)
    assert "asks for --key or --ca" in findings(bundle, Demands(strict=True))


def test_a_key_does_not_replace_an_authority(bundle: Path) -> None:
    root = certify("Root", FOREIGN, authority=True)
    assert "without a certificate" in findings(bundle, Demands(anchors=(root,)))


def with_certificate(bundle: Path, days: tuple[int, int] = (-1, 365), **options: Any) -> Inspection:
    """The bundle signed by a certificate under a root and one in between."""
    root_key, middle_key = new_key(), new_key()
    root = certify("Root", root_key, authority=True)
    middle = certify("Middle", middle_key, (root.subject, root_key), authority=True)
    leaf = certify("Signer", KEY, (middle.subject, middle_key), days=days, **options)
    chain = tuple(each.public_bytes(Encoding.DER) for each in (leaf, middle))
    sign_bundle(bundle, Signer(KEY, chain))
    return inspect_bundle(bundle, Demands(anchors=(root,), strict=True))


def test_a_certificate_under_a_trusted_root_is_accepted(bundle: Path) -> None:
    found = with_certificate(bundle)
    assert (found.findings, found.seal, found.signer) == ((), Seal.TRUSTED, "CN=Signer")


def test_certificates_that_do_not_vouch_are_refused(bundle: Path) -> None:
    assert "is valid from" in with_certificate(bundle, days=(-20, -10)).findings[0]
    assert "is valid from" in with_certificate(bundle, days=(10, 20)).findings[0]
    assert "is not for code" in with_certificate(bundle, purpose=ExtendedKeyUsageOID.SERVER_AUTH).findings[0]
    with_certificate(bundle)
    stranger = certify("Root", FOREIGN, authority=True)
    assert "leads to none that is trusted" in findings(bundle, Demands(anchors=(stranger,)))
    assert findings(bundle, Demands()) == ""


def test_signing_again_gives_the_same_bytes_and_a_damaged_bundle_is_not_signed(bundle: Path) -> None:
    before = (bundle / SIGNATURE).read_bytes()
    (bundle / SIGNATURE).unlink()
    sign_bundle(bundle, Signer(KEY))
    assert (bundle / SIGNATURE).read_bytes() == before
    flip(WEIGHTS)(bundle)
    with pytest.raises(IntegrityError, match="was changed"):
        sign_bundle(bundle, Signer(KEY))


def run(*arguments: object, offline: bool = False, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The command line, in a network namespace with nothing in it when `offline` and root."""
    prefix = ["unshare", "-n"] if offline and os.geteuid() == 0 and shutil.which("unshare") else []
    command = [*prefix, sys.executable, "-m", "tapeout", *map(str, arguments)]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )


@pytest.mark.usefixtures("no_network")
def test_the_command_line_signs_and_verifies_without_a_network(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    key, public = write_key(KEY, tmp_path / "key.pem", "open sesame"), write_public(KEY, tmp_path / "pub.pem")
    unsigned = run("verify", folder, offline=True)
    assert (unsigned.returncode, "signature  unsigned" in unsigned.stdout) == (0, True)
    assert run("verify", folder, "--key", public).returncode == 5
    done = run("sign", folder, "--key", key, "--passphrase-env", "SECRET", SECRET="open sesame")  # noqa: S106 - a test's
    assert done.returncode == 0, done.stderr
    good = run("verify", folder, "--key", public, "--strict", "--require-sequence", SEQUENCE, offline=True)
    assert good.returncode == 0, good.stdout + good.stderr
    assert "integrity  whole" in good.stdout
    old = run("verify", folder, "--key", public, "--require-sequence", SEQUENCE + 1, "--format", "json")
    assert (old.returncode, json.loads(old.stdout)["whole"]) == (5, False)
    assert "help:" in old.stderr


@pytest.mark.deep
def test_a_bit_beyond_4_gib_is_found(bundle: Path) -> None:
    path = bundle / "packages/large.bin"
    path.touch()
    os.truncate(path, 4 * GIB + 100)
    write_manifest(bundle)
    sign_bundle(bundle, Signer(KEY))
    assert findings(bundle) == ""
    with path.open("r+b") as stream:
        stream.seek(4 * GIB + 50)
        stream.write(b"\x01")
    assert "packages/large.bin was changed" in findings(bundle)


def test_demands_can_be_less(bundle: Path) -> None:
    """The sequence is asked for by whoever verifies; without that an older release passes."""
    downgrade(bundle)
    assert findings(bundle, replace(DEMANDS, sequence=0)) == ""
