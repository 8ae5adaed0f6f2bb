"""Commands that seal and check: sign, verify."""

import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tapeout.output import echo_json
from targets.errors import DeviceMissing, InputRefused, IntegrityError, UsageError
from validate.safe_text import clean

if TYPE_CHECKING:
    from tapeout.sign import Signer
    from tapeout.verify import Demands, Inspection

HOLDS = {True: "fits", False: "differs", None: "unknown"}
FORMATS = click.Choice(["text", "json"])
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)

passphrase_option = click.option(
    "--passphrase-env", metavar="NAME", help="Environment variable with the key's passphrase [asked for]."
)
certificate_option = click.option(
    "--certificate", type=FILE, help="PEM: the key's certificate, then those between it and the authority."
)


@click.command()
@click.argument("bundle", type=FOLDER)
@click.option("--key", type=FILE, required=True, help="Private key: PKCS#8 PEM on P-256, P-384 or P-521.")
@passphrase_option
@certificate_option
@click.option("--out", type=click.Path(path_type=Path), help="Where the signature goes [BUNDLE/model.sig].")
def sign(bundle: Path, key: Path, passphrase_env: str | None, certificate: Path | None, out: Path | None) -> None:
    """Sign BUNDLE, offline, in the OMS format."""
    from tapeout.sign import sign_bundle

    path = sign_bundle(bundle, make_signer(key, passphrase_env, certificate), out)
    click.echo(str(path))


def make_signer(key: Path, passphrase_env: str | None, certificate: Path | None) -> "Signer":
    """Whoever holds `key`.

    Raises:
        UsageError: the key cannot be read, or it is not that of the certificate.
        InputRefused: it is not a key that OMS names.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    from tapeout.certificates import load_certificates
    from tapeout.sign import Signer
    from tapeout.signing_key import load_private_key

    private = load_private_key(key, lambda: passphrase(passphrase_env, key))
    if certificate is None:
        return Signer(private)
    chain = load_certificates(certificate)
    if not chain or chain[0].public_key() != private.public_key():
        raise InputRefused(f"the first certificate of {certificate} is not that of {key}", "put the key's own first")
    return Signer(private, tuple(each.public_bytes(Encoding.DER) for each in chain))


def passphrase(variable: str | None, key: Path) -> str:
    """The passphrase of an encrypted key, from the environment or from whoever sits at the terminal.

    Raises:
        UsageError: the variable is not set, or there is no terminal.
    """
    if variable is not None:
        if variable not in os.environ:
            raise UsageError(f"the environment has no {variable}", "set it to the key's passphrase")
        return os.environ[variable]
    if not sys.stdin.isatty():
        raise UsageError(f"{key} is encrypted and nobody is here to ask", "name a variable with --passphrase-env")
    text: str = click.prompt(f"Passphrase of {key}", hide_input=True, err=True)
    return text


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--key", type=FILE, help="Public key in PEM that has to have signed it.")
@click.option("--ca", type=FILE, help="PEM: authorities, one of which has to vouch for the signer's certificate.")
@click.option("--signature", type=FILE, help="Where the signature is [BUNDLE/model.sig].")
@click.option("--require-sequence", "sequence", type=click.IntRange(min=0), default=0, help="Refuse older releases.")
@click.option("--source", metavar="MODEL", help="Refuse a bundle that was not made from this model (as for build).")
@click.option("--runs-here", is_flag=True, help="End with 3 unless a package of it fits this machine.")
@click.option("--strict", is_flag=True, help="Refuse a bundle that is unsigned, or signed by nobody you named.")
@click.option("--format", "form", type=FORMATS, default="text", show_default=True)
def verify(bundle: Path, form: str, **options: Any) -> None:
    """Check BUNDLE: every file, the manifest, the signature. No network; ends with 5 on any finding."""
    from tapeout.verify import inspect_bundle

    found = inspect_bundle(bundle, demands_of(options))
    if form == "json":
        echo_json(as_dictionary(found))
    else:
        click.echo(describe(bundle, found))
    if found.findings:
        raise IntegrityError(
            f"{bundle} is refused for {len(found.findings)} finding{'s' * (len(found.findings) > 1)}",
            "do not install it; fetch it again from whoever signed it",
        )
    if options["runs_here"] and not fitting(found):
        raise DeviceMissing(f"no package of {bundle} fits this machine", "see what it asks for above")


def fitting(found: "Inspection") -> list[str]:
    """Packages that ask for nothing that this machine is seen not to have."""
    packages = found.manifest["packages"] if found.manifest else {}
    return [path for path in packages if not any(held.package == path and held.holds is False for held in found.held)]


def demands_of(options: Mapping[str, Any]) -> "Demands":
    """What the command line asks of a bundle."""
    from export.source import parse_source, source_identity
    from tapeout.certificates import load_certificates
    from tapeout.signing_key import load_public_key
    from tapeout.verify import Demands

    return Demands(
        key=load_public_key(options["key"]) if options["key"] else None,
        anchors=load_certificates(options["ca"]) if options["ca"] else (),
        signature=options["signature"],
        strict=options["strict"],
        sequence=options["sequence"],
        source=source_identity(parse_source(options["source"])) if options["source"] else None,
    )


def describe(bundle: Path, found: "Inspection") -> str:
    """What was found, for people."""
    signer = f" by {found.signer}" if found.signer else ""
    sequence = found.manifest["sequence"] if found.manifest else "unknown"
    lines = [
        f"{bundle}",
        f"files      {found.files}, {found.size:,} bytes",
        f"signature  {found.seal}{signer}",
        f"sequence   {sequence}",
        f"integrity  {'REFUSED' if found.findings else 'whole'}",
        *(f"  - {finding}" for finding in found.findings),
        *(["chain"] if found.chain else []),
        *(f"  {line}" for line in found.chain),
        *(["this machine (no part of integrity)"] if found.held else []),
        *(f"  {HOLDS[held.holds]:<8} {held.package}: {held.claim} ({held.found})" for held in found.held),
    ]
    # A bundle that nobody signed may say anything: nothing of it reaches a terminal as it is.
    return "\n".join(clean(line) for line in lines)


def as_dictionary(found: "Inspection") -> dict[str, Any]:
    """What was found, for programs."""
    return {
        "whole": not found.findings,
        "findings": list(found.findings),
        "signature": str(found.seal),
        "signer": found.signer,
        "files": found.files,
        "bytes": found.size,
        "sequence": found.manifest["sequence"] if found.manifest else None,
        "chain": list(found.chain),
        "machine": [dataclasses.asdict(held) for held in found.held],
        "fitting": fitting(found),
    }
