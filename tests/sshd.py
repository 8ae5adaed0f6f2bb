"""A real OpenSSH server on loopback, with keys and a configuration of its own, and a proxy that loses connections."""

import getpass
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

HOST = "127.0.0.1"
ALIAS = "board"
STARTED_S = 10.0
PACKAGE = "openssh-server"
# Debian's sshd wants this when root starts it; the system's own service makes it.
PRIVILEGE_SEPARATION = Path("/run/sshd")

SERVER = """
ListenAddress {host}
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
"""

CLIENT = """
Host {alias}
  HostName {host}
  Port {port}
  User {user}
  HostKeyAlias {alias}
  IdentityFile {folder}/user_key
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
"""


def find_sshd() -> str:
    """The server's program; without it the test fails where CI is set, and is skipped elsewhere."""
    found = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
    if found is None and os.environ.get("CI"):
        pytest.fail(f"CI has no sshd: apt-get install -y {PACKAGE}")
    if found is None:
        pytest.skip(f"no sshd on this machine: apt-get install {PACKAGE}")
    return found


@dataclass
class Server:
    """A running sshd.

    Attributes:
        folder: its keys and configuration.
        port: where it listens.
        process: the listener; every connection is a child of it.
    """

    folder: Path
    port: int
    process: "subprocess.Popen[bytes]"

    def client(self, port: int | None = None, name: str = "client") -> tuple[str, ...]:
        """The ssh command of a user who knows this server as `board`, by way of another port if one is given."""
        path = self.folder / name
        user = getpass.getuser()
        text = CLIENT.format(alias=ALIAS, host=HOST, port=port or self.port, user=user, folder=self.folder)
        path.write_text(text, encoding="utf-8")
        return ("ssh", "-F", str(path))

    def know(self, key: str | None) -> None:
        """Let the user know `key` as the server's, or none."""
        (self.folder / "known_hosts").write_text(f"{ALIAS} {key}\n" if key else "", encoding="utf-8")

    def host_key(self, name: str = "host_key") -> str:
        """Type and key of one of the folder's public keys."""
        return " ".join((self.folder / f"{name}.pub").read_text(encoding="utf-8").split()[:2])

    def sessions(self) -> list[psutil.Process]:
        """The server's end of every connection."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if child.name() == "sshd"]

    def drop(self) -> int:
        """Kill every session, as a reboot would; how many there were."""
        sessions = self.sessions()
        for session in sessions:
            session.kill()
        return len(sessions)

    def freeze(self) -> None:
        """Stop every session where it is, as a cable that is pulled out."""
        for session in self.sessions():
            session.suspend()


def new_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, timeout=30)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """A server that lets the current user in with the key it makes."""
    program = find_sshd()
    if os.geteuid() == 0:
        PRIVILEGE_SEPARATION.mkdir(exist_ok=True)
    for name in ("host_key", "user_key", "other_key"):
        new_key(folder / name)
    port = free_port()
    configuration = folder / "sshd_config"
    configuration.write_text(SERVER.format(host=HOST, port=port, folder=folder), encoding="utf-8")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "-D", "-e", "-f", str(configuration)], stderr=log)
    try:
        wait_until_open(process, port, folder / "log")
        server = Server(folder, port, process)
        server.know(server.host_key())
        yield server
    finally:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.wait()


def wait_until_open(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    until = time.monotonic() + STARTED_S
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"sshd did not start: {log.read_text(encoding='utf-8', errors='replace')}")


@dataclass
class Cut:
    """A proxy in front of a port that ends each connection after some bytes from the client.

    Attributes:
        behind: the port it passes on to.
        limits: bytes for the first connection, the second, and so on; those after them are never cut.
        sent: bytes that each connection passed on so far.
    """

    behind: int
    limits: list[int]
    sent: list[int] = field(default_factory=list)

    @contextmanager
    def listening(self) -> Iterator[int]:
        """The proxy's own port."""
        with socket.socket() as listener:
            listener.bind((HOST, 0))
            listener.listen()
            threading.Thread(target=self.accept, args=(listener,), daemon=True).start()
            try:
                yield listener.getsockname()[1]
            finally:
                shut(listener)  # closing alone would not wake the thread that accepts

    def accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            number = len(self.sent)
            self.sent.append(0)
            server = socket.create_connection((HOST, self.behind))
            threading.Thread(target=self.forward, args=(client, server, number), daemon=True).start()
            threading.Thread(target=self.back, args=(server, client), daemon=True).start()

    def forward(self, client: socket.socket, server: socket.socket, number: int) -> None:
        limit = self.limits[number] if number < len(self.limits) else None
        try:
            while data := client.recv(1 << 14):
                self.sent[number] += len(data)
                server.sendall(data)
                if limit is not None and self.sent[number] > limit:
                    break
        except OSError:
            pass
        for end in (client, server):
            shut(end)

    def back(self, server: socket.socket, client: socket.socket) -> None:
        try:
            while data := server.recv(1 << 14):
                client.sendall(data)
        except OSError:
            pass
        shut(client)


def shut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
