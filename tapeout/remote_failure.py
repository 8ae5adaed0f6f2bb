"""What ssh said when it ended -> the error that names the device and the next step."""

from tapeout.remote_place import Place
from targets.errors import DeviceMissing, IntegrityError, StageFailed, TapeoutError, WorkerLost

SSH_FAILED = 255
NOT_FOUND = (126, 127)

CHANGED_KEY = "REMOTE HOST IDENTIFICATION HAS CHANGED"
UNKNOWN_KEY = ("Host key verification failed", "host key is known for", "No matching host key fingerprint")
NO_LOGIN = ("Permission denied", "Too many authentication failures")


class Unreachable(DeviceMissing):
    """No connection could be made."""


class ConnectionLost(WorkerLost):
    """A connection ended that had been made."""


def lost(place: Place, why: str) -> ConnectionLost:
    """The connection ended in the middle."""
    return ConnectionLost(
        f"the connection to {place.host} was lost: {why}",
        "look at the device's power and network, then run the same command again: what was copied is kept",
    )


def explain(place: Place, code: int, said: str, connected: bool) -> TapeoutError:
    """The error behind an ssh that ended with `code` and `said` this on standard error."""
    line = last_line(said)
    if code == SSH_FAILED or code < 0:
        return lost(place, line) if connected else explain_refusal(place, said)
    if code in NOT_FOUND and not connected:
        return DeviceMissing(
            f"{place.host} has no {place.python}: {line}",
            "install Python 3.11 and Tapeout's device libraries there, and name the interpreter with --on-python",
        )
    if not connected:
        return DeviceMissing(
            f"{place.python} on {place.host} ended with {code}: {line}",
            f"see that this answers, on a device that runs Linux: {place.by_hand()} {place.python} -V",
        )
    return StageFailed(
        f"Tapeout on {place.host} ended with {code}: {line}", "this is a fault of Tapeout: report it with this line"
    )


def explain_refusal(place: Place, said: str) -> TapeoutError:
    """The error behind a connection that was not made."""
    if CHANGED_KEY in said:
        return IntegrityError(
            f"{place.host} answers with another host key than the one known for it",
            "if the device was set up anew, compare its fingerprint, remove the old key with ssh-keygen -R, and connect"
            f" once by hand: {place.by_hand()}; if it was not, somebody else answers",
        )
    if any(mark in said for mark in UNKNOWN_KEY):
        return DeviceMissing(
            f"the host key of {place.host} is not known here",
            f"connect once by hand and compare the fingerprint with the device's: {place.by_hand()}",
        )
    if any(mark in said for mark in NO_LOGIN):
        return DeviceMissing(
            f"{place.host} does not let us in without a password: {last_line(said)}",
            "put your public key there with ssh-copy-id, and load the private one with ssh-add",
        )
    return Unreachable(f"cannot reach {place.host}: {last_line(said)}", f"see that this connects: {place.by_hand()}")


def last_line(said: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
