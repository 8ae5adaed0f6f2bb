"""The licence that a model declares, as an SPDX identifier."""

import re
from pathlib import Path

UNKNOWN = "NOASSERTION"
MAX_CARD = 1 << 20
# The Hugging Face spelling of the licences that small models come under.
_SPDX = {
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "bsd-3-clause": "BSD-3-Clause",
    "cc-by-4.0": "CC-BY-4.0",
    "cc-by-sa-4.0": "CC-BY-SA-4.0",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
}


def spdx(declared: object) -> str:
    """The SPDX identifier of a declared licence; `LicenseRef-...` for one that SPDX does not list."""
    if not isinstance(declared, str) or not declared.strip():
        return UNKNOWN
    name = declared.strip().lower()
    return _SPDX.get(name) or "LicenseRef-" + re.sub(r"[^a-z0-9.-]+", "-", name)[:100]


def licence_of_card(card: Path) -> str:
    """The licence in the front matter of a model card; NOASSERTION when there is no card or no licence in it."""
    if not card.is_file():
        return UNKNOWN
    with card.open("rb") as stream:
        text = stream.read(MAX_CARD).decode("utf-8", errors="replace")
    front = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    found = re.search(r"^license:[ \t]*[\"']?([\w.-]+)", front[1], re.MULTILINE) if front else None
    return spdx(found[1] if found else None)
