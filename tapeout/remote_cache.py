"""Files on the device, kept by digest: what has arrived whole, what is still arriving, what is measured now.

Travels as text.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import signal
import time
import zipfile
from pathlib import Path
from typing import Any

from tapeout.remote_channel import CHUNK, Channel, RefusedError

TAKE_OVER_S = 20.0
BUSY_S = 5.0  # an agent that has just lost its client takes a moment to end
MARGIN = 4 << 20  # bytes that stay free: file system tables, logs
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES)


class Cache:
    """Files by SHA-256 below one folder, one client at a time.

    `objects/` holds whole files; `partial/` what is still arriving; `runs/` the folders that are measured in, made of
    hard links to objects.
    """

    def __init__(self, root: Path, channel: Channel) -> None:
        self.root, self.channel = root, channel
        self.objects, self.partial, self.runs = root / "objects", root / "partial", root / "runs"
        for folder in (self.objects, self.partial, self.runs):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.lock = os.open(str(root / "lock"), os.O_RDWR | os.O_CREAT, 0o600)

    def claim(self, session: str) -> None:
        """Keep others out until this process ends; the same client's lost connection is ended."""
        start = time.monotonic()
        while True:
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                said = os.pread(self.lock, 1000, 0).decode(errors="replace").split()
                ours = len(said) == 2 and said[1] == session
                if time.monotonic() - start > (TAKE_OVER_S if ours else BUSY_S):
                    raise RefusedError(
                        "DeviceMissing",
                        f"another validation is running there in {self.root}",
                        "wait until it has ended: two at once would spoil each other's figures",
                    ) from None
                if ours:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(said[0]), signal.SIGTERM)
                time.sleep(0.2)
        os.ftruncate(self.lock, 0)
        os.pwrite(self.lock, f"{os.getpid()} {session}".encode(), 0)
        for left in self.runs.iterdir():
            shutil.rmtree(str(left))

    def look(self, wanted: dict[str, int]) -> dict[str, int]:
        """What is missing of `wanted` (size by digest), with how many bytes of each are here already.

        Everything that is said to be here has been read and verified. Makes room from what is not wanted.
        """
        missing = {digest: self.arrived(digest, size) for digest, size in wanted.items() if not self.has(digest, size)}
        need = sum(wanted[digest] - offset for digest, offset in missing.items()) + MARGIN
        if not self.can_link():
            need += sum(wanted.values())
        self.make_room(need, set(wanted))
        if self.free() < need:
            raise RefusedError(
                "NoSpace",
                f"{self.root} there has {self.free() / 1e6:.0f} MB free and {need / 1e6:.0f} MB are needed",
                "free space on the device, or name a folder on a larger file system with --on-folder",
            )
        return missing

    def has(self, digest: str, size: int) -> bool:
        """Whether the object is whole; one that is not is removed."""
        path = self.objects / digest
        if not path.exists():
            return False
        if path.stat().st_size == size and self.digest(path).hexdigest() == digest:
            os.utime(str(path))
            return True
        path.unlink()
        return False

    def arrived(self, digest: str, size: int) -> int:
        """Bytes that an earlier connection left."""
        path = self.partial / digest
        if path.exists() and path.stat().st_size >= size:
            path.unlink()
        return path.stat().st_size if path.exists() else 0

    def digest(self, path: Path) -> Any:
        """SHA-256 over a file, to be continued."""
        sha = hashlib.sha256()
        with path.open("rb") as stream:
            while True:
                data = stream.read(CHUNK)
                if not data:
                    return sha
                sha.update(data)
                self.channel.beat()

    def free(self) -> int:
        """Bytes that this user may still write."""
        status = os.statvfs(str(self.root))
        return status.f_bavail * status.f_frsize

    def make_room(self, need: int, keep: set[str]) -> None:
        """Remove what is not wanted now, the longest unused first, until `need` bytes are free."""
        others = [path for path in (*self.objects.iterdir(), *self.partial.iterdir()) if path.name not in keep]
        for path in sorted(others, key=lambda path: path.stat().st_mtime):
            if self.free() >= need:
                return
            path.unlink()

    def can_link(self) -> bool:
        """Whether the file system has hard links; without them every file is needed twice."""
        one, other = self.partial / ".link", self.partial / ".link2"
        one.touch()
        try:
            os.link(str(one), str(other))
            other.unlink()
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return False
        finally:
            one.unlink()
        return True

    def put(self, digest: str, size: int, offset: int) -> bool:
        """Take the bytes from `offset` on; False when the whole is not what it should be, and then nothing is kept."""
        path = self.partial / digest
        if not offset:
            path.write_bytes(b"")
        sha = self.digest(path)
        try:
            with path.open("ab", buffering=0) as stream:
                while offset < size:
                    data = self.channel.read_bytes(min(CHUNK, size - offset))
                    sha.update(data)
                    offset += len(data)
                    while data:
                        data = data[stream.write(data) :]
                os.fsync(stream.fileno())
        except OSError:
            path.unlink()  # a full disk has better uses
            raise
        if sha.hexdigest() != digest:
            path.unlink()
            return False
        path.chmod(0o444)
        path.replace(self.objects / digest)
        return True

    def lay_out(self, files: dict[str, str], program: str) -> Path:
        """A new folder with every file at its path and the program unpacked; it exists whole or not at all."""
        run = self.runs / str(os.getpid())
        for name, digest in files.items():
            path = run / name
            if ".." in path.parts or not str(path).startswith(f"{run}/"):
                raise RefusedError("IntegrityError", f"{name} is no path within a bundle", "build the bundle again")
            path.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(self.objects / digest, path)
        with zipfile.ZipFile(str(self.objects / program)) as archive:
            archive.extractall(str(run / "program"))
        (run / "out").mkdir()
        return run


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link, or a copy where there are none."""
    try:
        os.link(str(source), str(target))
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        shutil.copyfile(str(source), str(target))
