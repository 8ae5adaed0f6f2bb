"""Installed distributions as evidence: version, licence, and a digest that does not depend on where they are."""

import csv
import importlib.metadata
from collections.abc import Iterable
from dataclasses import dataclass

from export.digest import digest_value

# What an installer adds beside a wheel's own files.
INSTALLER_FILES = frozenset({"INSTALLER", "RECORD", "REQUESTED", "direct_url.json"})
# How setuptools' classifiers and common free texts are called by SPDX.
SPDX = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
}


@dataclass(frozen=True)
class Wheel:
    """One distribution.

    Attributes:
        name: of the distribution.
        version: of it.
        licence: an SPDX expression, or None when its metadata has none.
        contents: SHA-256 over the path and the SHA-256 of every file that came in its wheel, or None when it has no
            record of them.
    """

    name: str
    version: str
    licence: str | None
    contents: str | None

    @property
    def purl(self) -> str:
        """Its package URL."""
        return f"pkg:pypi/{self.name.lower().replace('_', '-')}@{self.version}"


def installed_wheels(names: Iterable[str]) -> tuple[Wheel, ...]:
    """Those of the distributions that are installed here, by name."""
    found = []
    for name in sorted(set(names)):
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found.append(Wheel(name, distribution.version, licence_of(distribution), contents_of(distribution)))
    return tuple(found)


def licence_of(distribution: importlib.metadata.Distribution) -> str | None:
    """The licence in a distribution's metadata, as an SPDX expression."""
    declared = distribution.metadata
    for expression in declared.get_all("License-Expression") or ():
        return str(expression)
    words = [*(declared.get_all("License") or ()), *(declared.get_all("Classifier") or ())]
    return next((SPDX[word] for word in words if word in SPDX), None)


def contents_of(distribution: importlib.metadata.Distribution) -> str | None:
    """A digest of what was in the wheel, from its RECORD; what the installer wrote and compiled is left out."""
    record = distribution.read_text("RECORD")
    if record is None:
        return None
    rows = [row for row in csv.reader(record.splitlines()) if len(row) == 3]
    files = {path: digest for path, digest, _ in rows if digest.startswith("sha256=") and came_along(path)}
    return digest_value(files) if files else None


def came_along(path: str) -> bool:
    """Whether a file of a RECORD was in the wheel: scripts are written for this machine, bytecode is compiled here."""
    name = path.rpartition("/")[2]
    return not path.startswith(("../", "/")) and not name.endswith(".pyc") and name not in INSTALLER_FILES
