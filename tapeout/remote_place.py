"""`--on user@host[:port]` -> the command that reaches the device with the user's own OpenSSH client."""

import os
import re
import shlex
from dataclasses import dataclass

from targets.errors import UsageError

SSH_VARIABLE = "TAPEOUT_SSH"
FOLDER = "~/.cache/tapeout"
PYTHON = "python3"
TIMEOUT_S = 3600

# On the command line, so they win over every file. What is not here, the user's own configuration decides:
# keys, agent, jump hosts, aliases, compression.
OPTIONS = (
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "NoHostAuthenticationForLocalhost=no",
    "ConnectTimeout=15",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=3",
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
    # A master of our own would keep our pipes open; one that the user has open is used.
    "ControlMaster=no",
    # Without its messages a failure could not be told.
    "LogLevel=INFO",
)

# Nothing that ssh or a shell could read as an option, a quote or a second word.
_PLACE = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][\w.+-]*)@)?"
    r"(?:\[(?P<bracketed>[0-9A-Fa-f:.]+(?:%\w+)?)\]|(?P<host>[A-Za-z0-9_][\w.-]*)|(?P<literal>[0-9A-Fa-f]*(?::[0-9A-Fa-f.]*){2,}))"
    r"(?::(?P<port>[0-9]{1,5}))?",
    re.ASCII,
)


@dataclass(frozen=True)
class Place:
    """A device and where Tapeout may work on it.

    Attributes:
        host: name, address or alias, with the user in front when one was given.
        port: TCP port, or None for the one that ssh's configuration says.
        python: the interpreter there: a name on the device's PATH, or an absolute path.
        folder: where copied files are kept there; `~` is the home folder there.
        timeout_s: longest time for the measurement of one package, in seconds.
        ssh: the ssh client and arguments of the user.
    """

    host: str
    port: int | None = None
    python: str = PYTHON
    folder: str = FOLDER
    timeout_s: int = TIMEOUT_S
    ssh: tuple[str, ...] = ("ssh",)

    def command(self, *remote: str) -> list[str]:
        """Arguments that run the words `remote` on the device, each as one word of its login shell."""
        options = [argument for option in OPTIONS for argument in ("-o", option)]
        port = ["-p", str(self.port)] if self.port is not None else []
        return [*self.ssh, "-T", *options, *port, "--", self.host, shlex.join(remote)]

    def by_hand(self) -> str:
        """The command with which a person connects."""
        port = [] if self.port is None else ["-p", str(self.port)]
        return shlex.join([*self.ssh, *port, self.host])


def parse_place(text: str) -> tuple[str, int | None]:
    """(host with its user, port) of `user@host:port`, where user and port may be missing.

    Raises:
        UsageError: it is none of that.
    """
    found = _PLACE.fullmatch(text)
    port = int(found["port"]) if found and found["port"] else None
    if found is None or (port is not None and not 0 < port < 65536):
        raise UsageError(
            f"'{text}' does not name a device", "write user@host, user@host:port, user@[address]:port or an ssh alias"
        )
    host = found["bracketed"] or found["host"] or found["literal"]
    return (f"{found['user']}@{host}" if found["user"] else host), port


def ssh_client() -> tuple[str, ...]:
    """The words of `TAPEOUT_SSH`, else plain `ssh`.

    Raises:
        UsageError: a quote is not closed.
    """
    try:
        return tuple(shlex.split(os.environ.get(SSH_VARIABLE, ""))) or ("ssh",)
    except ValueError as error:
        raise UsageError(f"{SSH_VARIABLE} is not a command: {error}", "write it as for a shell") from error
