"""The closed vocabulary of how far a package got, and of what a gate, a device or a bundle was judged to be."""

from collections.abc import Iterable
from enum import StrEnum


class Status(StrEnum):
    """How far a package got.

    A device whose back end this release does not have makes no package, so it has no status: it is listed as
    `Verdict.INCOMPLETE` with the reason its target file gives.
    """

    MEASURED = "measured"
    """Ran on the named device: fidelity and latency are real."""
    HOST_MEASURED = "host-measured"
    """Ran on this host, which has the same kind of device: fidelity is real, latency indicative."""
    SIMULATED = "simulated"
    """Compiled by the device's compiler and run in the vendor's simulator: numerics are real, no latency."""
    EMULATED = "emulated"
    """The device's software pipeline ran on another device: shapes and numerics are checked, no latency."""
    COMPILED = "compiled"
    """The device's compiler accepted it; it was not run."""
    PREPARED = "prepared"
    """Everything that can be done off the device is done; a named step remains."""


class Verdict(StrEnum):
    """What a gate, a device or a bundle was judged to be."""

    PASS = "PASS"  # noqa: S105 - a verdict, not a password
    FAIL = "FAIL"
    INCOMPLETE = "INCOMPLETE"


def combine(verdicts: Iterable[Verdict]) -> Verdict:
    """FAIL if any failed, PASS if every one passed and there is at least one, else INCOMPLETE."""
    seen = set(verdicts)
    if Verdict.FAIL in seen:
        return Verdict.FAIL
    return Verdict.PASS if seen == {Verdict.PASS} else Verdict.INCOMPLETE
