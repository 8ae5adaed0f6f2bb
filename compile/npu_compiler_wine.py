"""The NPU compiler of OpenVINO's Windows wheel, run on Linux under Wine by a small C program of ours."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from compile.npu_compiler_wheel import HEADERS, IMPORT_LIBRARY, VERSION, fetch_wheel, unpack_wheel
from compile.vendor_child import require_output, run_vendor
from export.digest import digest_bytes

SOURCE = Path(__file__).with_name("npu_compiler.c")
GCC = "x86_64-w64-mingw32-gcc"
# Debian's wine64 puts no command on the path; its `wine` package, which would, brings 32-bit Wine along.
WINE_COMMANDS = ("wine64", "wine")
WINE_FILES = (Path("/usr/lib/wine/wine64"),)
INSTALL = "apt-get install --no-install-recommends wine64 gcc-mingw-w64-x86-64-win32"

SETUP_SECONDS = 300
SETUP_BYTES = 2 << 30
READY = "ready"


@dataclass(frozen=True)
class WineCompiler:
    """Wine, and the C compiler that builds our driver for it.

    Attributes:
        wine: the 64-bit Wine loader.
        gcc: the C compiler for 64-bit Windows.
    """

    wine: Path
    gcc: Path

    @property
    def version(self) -> str:
        """Which compiler, for the record."""
        return f"openvino {VERSION} (Windows wheel under Wine)"

    def prepare(self, cache: Path) -> None:
        """Fetch the wheel, build the driver and make a Wine prefix in `cache`, unless they are there.

        Raises:
            DeviceMissing: the wheel is not here and cannot be fetched.
            IntegrityError: what was fetched is not what is pinned.
            StageFailed: the driver cannot be built or the prefix cannot be made.
            TimedOut: one of these did not end.
        """
        cache.mkdir(parents=True, exist_ok=True)
        with only_one(cache / "lock"):
            if not self.driver(cache).is_file():
                self.install(cache)
            if not (prefix(cache) / READY).is_file():
                self.make_prefix(cache)

    def install(self, cache: Path) -> None:
        """Put the wheel's libraries and our driver beside each other, all or nothing."""
        with tempfile.TemporaryDirectory(dir=cache, prefix=".install-") as scratch:
            folder = Path(scratch) / "bin"
            folder.mkdir()
            unpack_wheel(fetch_wheel(Path(scratch)), folder)
            driver = folder / self.driver(cache).name
            log = cache / "build.log"
            options = ["-O1", "-Wall", "-Werror", f"-I{folder / HEADERS}", str(SOURCE), str(folder / IMPORT_LIBRARY)]
            what = "building the NPU compiler's driver"
            run_vendor(
                [str(self.gcc), *options, "-o", str(driver)],
                what=what,
                timeout_s=SETUP_SECONDS,
                memory_bytes=SETUP_BYTES,
                log=log,
                environment={},
            )
            require_output([driver], what, log)
            shutil.rmtree(self.driver(cache).parent, ignore_errors=True)
            folder.rename(self.driver(cache).parent)

    def make_prefix(self, cache: Path) -> None:
        """Make Wine's own C: drive; 6 s and 0.7 GB."""
        shutil.rmtree(prefix(cache), ignore_errors=True)
        run_vendor(
            [str(self.wine), "wineboot", "--init"],
            what="making a Wine prefix",
            timeout_s=SETUP_SECONDS,
            memory_bytes=SETUP_BYTES,
            log=cache / "prefix.log",
            environment=self.environment(cache),
        )
        (prefix(cache) / READY).touch()

    def driver(self, cache: Path) -> Path:
        """Our program, named by what it is built from."""
        built_from = digest_bytes(SOURCE.read_bytes() + VERSION.encode())
        return cache / "bin" / f"npu_compiler-{built_from[:12]}.exe"

    def command(self, cache: Path, arguments: Sequence[str]) -> list[str]:
        """The child's command line."""
        return [str(self.wine), str(self.driver(cache)), *arguments]

    def environment(self, cache: Path) -> Mapping[str, str]:
        """A prefix of our own, no display, no debug channel, no offer to install Mono or Gecko, no desktop entries."""
        return {
            "WINEPREFIX": str(prefix(cache)),
            "WINEDEBUG": "-all",
            "WINEDLLOVERRIDES": "mscoree=;mshtml=;winemenubuilder.exe=",
            "WINEARCH": "win64",
            "DISPLAY": "",
        }

    def path(self, path: Path) -> str:
        """As Windows sees it: Wine shows the whole file system as drive Z."""
        return f"Z:{path.resolve().as_posix()}"


def find_wine(files: Sequence[Path] = WINE_FILES) -> WineCompiler | str:
    """Wine and its C compiler, or which of the two is missing."""
    on_path = [Path(found) for name in WINE_COMMANDS if (found := shutil.which(name))]
    wine = next((path for path in (*on_path, *files) if path.is_file()), None)
    gcc = shutil.which(GCC)
    if wine and gcc:
        return WineCompiler(wine, Path(gcc))
    missing = [name for name, found in (("wine64", wine), (GCC, gcc)) if not found]
    return " and ".join(missing)


def prefix(cache: Path) -> Path:
    """Wine's C: drive and registry."""
    return cache / "prefix"


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold a lock file, so that devices that are compiled at the same time set up once."""
    import fcntl

    with path.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
