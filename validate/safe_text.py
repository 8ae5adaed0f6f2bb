"""Text of a model, a file or a vendor tool, made safe to show: no control characters, no terminal escapes."""

import re

# CSI, OSC (ended by BEL or ST) and the two-character escapes of ECMA-48, with ESC or as one C1 character.
ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
# What XML 1.0 forbids, what a terminal obeys, and the marks that make text read in another order than it is stored.
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def clean(text: str) -> str:
    """`text` without escapes, control characters, lone surrogates and direction overrides; tabs and newlines stay."""
    return UNSAFE.sub("", ESCAPES.sub("", text.replace("\r\n", "\n")))


def clean_line(text: str) -> str:
    """`text` cleaned and on one line."""
    return " ".join(clean(text).split())
