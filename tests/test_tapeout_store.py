"""The store keeps what was published, notices any change to it, and survives crashes, crowds and full disks."""

import errno
import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import tapeout.store
from export.digest import digest_bytes, digest_files, list_files
from tapeout.stage_key import Provenance, Record
from tapeout.storage_errors import storage_errors
from tapeout.store import Store
from tapeout.store_care import verify
from targets.errors import IntegrityError, NoSpace, StageFailed, UsageError
from tests.forked import ended, fork

KEY = digest_bytes(b"key")
OTHER = digest_bytes(b"other key")
MADE = Provenance(stage="hub", version="1", parameters={"opset": 23}, inputs={}, tools={"onnx": "1"}, value={"n": 1})
FILES = {"model.onnx": b"graph" * 100, "data/weights.bin": bytes(range(256)) * 40, "empty": b""}


def fill(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def put(store: Store, key: str = KEY, files: dict[str, bytes] = FILES) -> Record:
    with store.scratch() as scratch:
        fill(scratch, files)
        return store.publish(key, scratch, MADE)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fetched(store: Store, key: str = KEY) -> dict[str, bytes] | None:
    found = store.read(key)
    return None if found is None else contents(found[1])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, warnings: list[str]) -> Store:
    return Store(tmp_path / "store", warn=warnings.append)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a new tmpfs with the given options, or remounts it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mounted(options: str) -> Path:
        if "remount" not in options and os.path.ismount(folder):
            subprocess.run(["umount", folder], check=True)
        answer = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False
        )
        if answer.returncode:
            pytest.skip(f"mounting a tmpfs is not permitted: {answer.stderr.strip()}")
        return folder

    yield mounted
    if os.path.ismount(folder):
        subprocess.run(["umount", folder], check=True)


def test_what_was_published_is_read_back(store: Store) -> None:
    record = put(store)
    assert fetched(store) == FILES
    assert store.lookup(KEY) == record
    assert (record.stage, record.value, record.key) == ("hub", {"n": 1}, KEY)
    assert record.files == {name: digest_bytes(data) for name, data in FILES.items()}
    assert record.sizes == {name: len(data) for name, data in FILES.items()}
    assert record.object == digest_files(record.files)


def test_stored_files_are_read_only_and_linked_nowhere(store: Store) -> None:
    folder = store.object_path(put(store).object)
    for path in folder.rglob("*"):
        assert not path.is_symlink()
        if path.is_file():
            assert path.stat().st_mode & 0o777 == 0o444
            assert path.stat().st_nlink == 1


def test_another_store_object_and_process_sees_the_same(store: Store) -> None:
    put(store)
    again = Store(store.root)
    assert fetched(again) == FILES

    def look() -> None:
        assert fetched(Store(store.root)) == FILES

    assert ended(fork(look)) == 0


def test_a_miss_makes_nothing(store: Store) -> None:
    assert store.lookup(KEY) is None
    assert store.read(KEY) is None
    assert list(store.records()) == []
    assert not store.root.exists()


@pytest.mark.parametrize("key", ["", "../../etc", "a" * 63, "A" * 64, "a" * 64 + "/"])
def test_a_key_is_64_hex_digits(store: Store, key: str) -> None:
    with pytest.raises(UsageError):
        store.lookup(key)
    with pytest.raises(UsageError), store.lock(key):
        pass
    with pytest.raises(UsageError):
        put(store, key)


def test_two_keys_with_the_same_files_share_one_object(store: Store) -> None:
    assert put(store, KEY).object == put(store, OTHER).object
    assert len(list(store.objects.glob("*/*"))) == 1
    assert list(store.tmp.iterdir()) == []
    assert fetched(store, KEY) == fetched(store, OTHER) == FILES


def test_a_stage_without_files_is_stored_too(store: Store) -> None:
    put(store, files={})
    assert fetched(store) == {}
    shutil.rmtree(store.objects)
    assert store.lookup(KEY) is None


def test_a_key_published_again_gives_the_newer_result(store: Store) -> None:
    put(store)
    put(store, files={"blob": b"new"})
    assert fetched(store) == {"blob": b"new"}


def test_records_are_listed_by_stage(store: Store) -> None:
    records = [put(store, KEY), put(store, OTHER)]
    assert sorted(store.records("hub"), key=lambda record: record.key) == sorted(records, key=lambda record: record.key)
    assert list(store.records("quantize")) == []
    store.record_path(KEY).write_bytes(b"{}")
    assert list(store.records()) == [records[1]]


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.chmod(0o644)
    path.write_bytes(change(path.read_bytes()))


def flip(data: bytes) -> bytes:
    return data[:7] + bytes([data[7] ^ 1]) + data[8:]


def replace_by_link(path: Path) -> None:
    moved = path.rename(path.parents[3] / "elsewhere")
    path.symlink_to(moved)


def replace_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"")


# What happens to the object's folder and the record, and whether the cheap look already finds it.
DAMAGE: dict[str, tuple[Callable[[Path, Path], object], bool]] = {
    "bit of a file": (lambda folder, _: edit(folder / "model.onnx", flip), False),
    "files swapped": (lambda folder, _: edit(folder / "data/weights.bin", lambda data: data[::-1]), False),
    "file cut short": (lambda folder, _: edit(folder / "model.onnx", lambda data: data[:-1]), True),
    "file made longer": (lambda folder, _: edit(folder / "empty", lambda _: b"x"), True),
    "file missing": (lambda folder, _: (folder / "empty").unlink(), True),
    "file too many": (lambda folder, _: (folder / "extra").write_bytes(b""), True),
    "file renamed": (lambda folder, _: (folder / "empty").rename(folder / "void"), True),
    "file is a link": (lambda folder, _: replace_by_link(folder / "model.onnx"), True),
    "link too many": (lambda folder, _: (folder / "link").symlink_to("empty"), True),
    "hard link": (lambda folder, record: os.link(folder / "empty", record.parent / "link"), True),
    "pipe too many": (lambda folder, _: os.mkfifo(folder / "pipe"), True),
    "object missing": (lambda folder, _: shutil.rmtree(folder), True),
    "object is a link": (lambda folder, _: replace_by_link(folder), True),
    "object is a file": (lambda folder, _: replace_by_file(folder), True),
    "bit of the record": (lambda _, record: edit(record, flip), True),
    "record cut short": (lambda _, record: edit(record, lambda data: data[:-1]), True),
    "record empty": (lambda _, record: edit(record, lambda _: b""), True),
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("fresh", [True, False])
def test_damage_is_a_reported_miss_and_heals(store: Store, warnings: list[str], name: str, fresh: bool) -> None:
    record = put(store)
    assert fetched(store) == FILES
    damage, cheap = DAMAGE[name]
    damage(store.object_path(record.object), store.record_path(KEY))
    used = Store(store.root, warn=warnings.append) if fresh else store
    if not cheap:
        assert used.lookup(KEY) is not None
    assert (used.lookup(KEY) if cheap else used.read(KEY)) is None
    assert len(warnings) == 1
    assert any(store.quarantine.iterdir())
    assert used.read(KEY) is None
    assert len(warnings) == 1
    put(used)
    assert fetched(used) == FILES
    assert verify(used).clean


def test_the_record_of_another_key_is_damage(store: Store, warnings: list[str]) -> None:
    put(store, KEY)
    store.record_path(OTHER).parent.mkdir(exist_ok=True)
    shutil.copy(store.record_path(KEY), store.record_path(OTHER))
    assert store.lookup(OTHER) is None
    assert "another key" in warnings[0]
    assert fetched(store, KEY) == FILES


def test_a_disk_error_is_damage(store: Store, warnings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    put(store)

    def fails(_: Path) -> dict[str, str]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(tapeout.store, "list_files", fails)
    assert Store(store.root, warn=warnings.append).read(KEY) is None
    assert "Input/output error" in warnings[0]


def test_a_reader_leaves_what_was_built_again_meanwhile(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store)

    def damaged(*_: object, **__: object) -> None:
        raise IntegrityError("damaged a moment ago", "")

    monkeypatch.setattr(store, "_sound", damaged)
    assert fetched(store) == FILES
    assert list(store.quarantine.iterdir()) == []


def test_publishing_over_a_damaged_object_replaces_it(store: Store, warnings: list[str]) -> None:
    edit(store.object_path(put(store, KEY).object) / "model.onnx", flip)
    put(store, OTHER)
    assert len(warnings) == 1
    assert fetched(store, KEY) == fetched(store, OTHER) == FILES


def test_bytes_are_hashed_once_per_process_unless_they_change(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    record = put(store)
    hashed: list[Path] = []

    def counted(folder: Path) -> dict[str, str]:
        hashed.append(folder)
        return list_files(folder)

    monkeypatch.setattr(tapeout.store, "list_files", counted)
    assert fetched(store) == fetched(store) == FILES
    assert len(hashed) == 1
    os.utime(store.object_path(record.object) / "model.onnx")
    assert fetched(store) == FILES
    assert len(hashed) == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda link, outside: link.symlink_to(outside),
        lambda link, outside: link.symlink_to(outside.parent),
        lambda link, outside: link.symlink_to("nowhere"),
        lambda link, outside: os.link(outside, link),
        lambda link, outside: os.mkfifo(link),
    ],
    ids=["symlink", "folder symlink", "dangling symlink", "hard link", "pipe"],
)
def test_only_files_of_their_own_are_published(
    store: Store, tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    outside = tmp_path / "source.bin"
    outside.write_bytes(b"mine")
    outside.chmod(0o640)
    with store.scratch() as scratch:
        fill(scratch, FILES)
        make(scratch / "data/link", outside)
        with pytest.raises(IntegrityError, match="data/link"):
            store.publish(KEY, scratch, MADE)
    assert store.read(KEY) is None
    assert outside.stat().st_mode & 0o777 == 0o640
    assert list(store.tmp.iterdir()) == []


def test_only_scratch_folders_are_published(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    fill(folder, FILES)
    with pytest.raises(StageFailed):
        store.publish(KEY, folder, MADE)
    assert contents(folder) == FILES


def test_a_value_that_is_not_json_is_not_published(store: Store) -> None:
    with store.scratch() as scratch, pytest.raises(TypeError):
        store.publish(KEY, scratch, replace(MADE, value=object()))
    assert store.read(KEY) is None


@pytest.mark.parametrize("ending", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_scratch_is_private_and_goes_away(store: Store, ending: type[BaseException] | None) -> None:
    def use() -> None:
        with store.scratch() as scratch:
            assert scratch.stat().st_mode & 0o777 == 0o700
            fill(scratch, FILES)
            (scratch / "data").chmod(0o555)
            if ending is not None:
                raise ending

    if ending is None:
        use()
    else:
        with pytest.raises(ending):
            use()
    assert list(store.tmp.iterdir()) == []


def test_materialised_files_are_copies(store: Store, tmp_path: Path) -> None:
    put(store)
    found = store.read(KEY)
    assert found is not None
    target = tmp_path / "deep" / "bundle"
    store.materialise(*found, target)
    assert contents(target) == FILES
    for path in target.rglob("*"):
        if path.is_file():
            assert path.stat().st_nlink == 1
            assert path.stat().st_mode & 0o200
            edit(path, lambda _: b"mine now")
    assert fetched(Store(store.root)) == FILES
    assert names(target.parent) == ["bundle"]


def test_materialise_fills_an_empty_folder_and_leaves_a_full_one_alone(store: Store, tmp_path: Path) -> None:
    put(store)
    found = store.read(KEY)
    assert found is not None
    (tmp_path / "bundle").mkdir()
    store.materialise(*found, tmp_path / "bundle")
    (tmp_path / "bundle/model.onnx").write_bytes(b"edited")
    with pytest.raises(UsageError, match="exists already"):
        store.materialise(*found, tmp_path / "bundle")
    assert (tmp_path / "bundle/model.onnx").read_bytes() == b"edited"
    assert names(tmp_path) == ["bundle", "store"]


@pytest.mark.parametrize("name", ["bit of a file", "file missing", "file cut short", "hard link", "object missing"])
def test_materialise_copies_nothing_damaged(store: Store, tmp_path: Path, name: str) -> None:
    record = put(store)
    found = store.read(KEY)
    assert found is not None
    DAMAGE[name][0](store.object_path(record.object), store.record_path(KEY))
    with pytest.raises(IntegrityError):
        store.materialise(*found, tmp_path / "bundle")
    assert names(tmp_path) == ["store"]
    assert store.read(KEY) is None


def test_a_bad_copy_makes_the_next_read_look_again(store: Store, tmp_path: Path) -> None:
    put(store)
    found = store.read(KEY)
    assert found is not None
    path = found[1] / "model.onnx"
    before = path.stat()
    edit(path, flip)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(IntegrityError):
        store.materialise(*found, tmp_path / "bundle")
    assert store.read(KEY) is None


def test_a_reflink_is_verified_like_a_copy(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store)
    found = store.read(KEY)
    assert found is not None
    clone: Callable[[bytes], bytes] = bytes

    def ioctl(target: int, request: int, source: int) -> None:
        assert request == 0x40049409
        data = os.pread(source, 1 << 20, 0)
        os.pwrite(target, clone(data), 0)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    store.materialise(*found, tmp_path / "good")
    assert contents(tmp_path / "good") == FILES
    clone = bytes.upper
    with pytest.raises(IntegrityError):
        store.materialise(*found, tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_a_target_that_cannot_be_written_is_named(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store)
    found = store.read(KEY)
    assert found is not None

    def ioctl(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    with pytest.raises(NoSpace, match=str(tmp_path / "out")) as raised:
        store.materialise(*found, tmp_path / "out" / "bundle")
    assert "--store" not in raised.value.help
    assert names(tmp_path / "out") == []


def test_everything_is_on_disk_before_it_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, OTHER, {"x": b"1"})
    synced: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with store.scratch() as scratch:
        fill(scratch, FILES)
        record = store.publish(KEY, scratch, MADE)
    placed = synced.index(str(store.object_path(record.object).parent))
    sealed = {str(scratch / name) for name in [*FILES, "data"]} | {str(scratch)}
    assert sealed <= set(synced[:placed])
    written = next(place for place, path in enumerate(synced) if Path(path).parent == store.tmp and place > placed)
    assert synced.index(str(store.record_path(KEY).parent)) > written


def test_the_second_builder_waits_for_the_first(store: Store) -> None:
    def waiting() -> None:
        os.write(told, b"w")

    def second() -> None:
        with Store(store.root).lock(KEY, waiting=waiting):
            os.write(told, b"i")

    hear, told = os.pipe()
    with store.lock(KEY):
        child = fork(second)
        assert os.read(hear, 1) == b"w"
        with store.lock(OTHER, waiting=pytest.fail):
            pass
    assert os.read(hear, 1) == b"i"
    assert ended(child) == 0


def test_a_crash_releases_the_lock(store: Store) -> None:
    def crash() -> None:
        with store.lock(KEY):
            os.kill(os.getpid(), signal.SIGKILL)

    assert ended(fork(crash)) == -signal.SIGKILL
    with store.lock(KEY, waiting=pytest.fail):
        pass


def test_a_child_that_outlives_the_lock_does_not_keep_it(store: Store) -> None:
    wait, go = os.pipe()
    with store.lock(KEY):
        child = fork(lambda: os.read(wait, 1))
    with store.lock(KEY, waiting=pytest.fail):
        pass
    os.write(go, b"x")
    assert ended(child) == 0


def test_eight_builders_of_one_key_build_once(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "built"
    start, go = os.pipe()

    def build() -> None:
        os.close(go)
        os.read(start, 1)
        mine = Store(store.root)
        with mine.lock(KEY):
            if mine.read(KEY) is None:
                with log.open("a") as stream:
                    stream.write("built\n")
                put(mine)
        assert fetched(mine) == FILES

    children = [fork(build) for _ in range(8)]
    os.close(go)
    assert [ended(child) for child in children] == [0] * 8
    assert log.read_text() == "built\n"
    assert verify(store).clean


def test_eight_builders_without_a_lock_do_no_harm(store: Store) -> None:
    start, go = os.pipe()

    def build() -> None:
        os.close(go)
        os.read(start, 1)
        mine = Store(store.root)
        for _ in range(5):
            put(mine)
            assert fetched(mine) == FILES

    children = [fork(build) for _ in range(8)]
    os.close(go)
    assert [ended(child) for child in children] == [0] * 8
    assert verify(store).clean
    assert list(store.tmp.iterdir()) == []


def put_until(root: Path, line: int | None) -> int:
    """Publish, counting the lines of our own code that run, and die at the given one; the number of lines run."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if not any(f"/{package}/" in frame.f_code.co_filename for package in ("tapeout", "export")):
            return None
        count += event == "line"
        if count == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    try:
        put(Store(root))
    finally:
        sys.settrace(None)
    return count


def test_a_publisher_killed_anywhere_leaves_a_sound_store(tmp_path: Path) -> None:
    lines = put_until(tmp_path / "whole", None)
    assert lines > 200
    outcomes = set()
    for line in random.Random(20).sample(range(1, lines + 1), 20):  # noqa: S311 - the same points in each run
        root = tmp_path / str(line)
        assert ended(fork(partial(put_until, root, line))) == -signal.SIGKILL
        store = Store(root)
        assert verify(store).clean, f"killed at line {line} of {lines}"
        outcomes.add((fetched(store) is None, any(store.objects.glob("*/*"))))
        put(store)
        assert fetched(store) == FILES
    # Killed before the object, between object and record, and after both.
    assert outcomes == {(True, False), (True, True), (False, True)}


def refusal(work: Callable[[], object]) -> NoSpace | None:
    try:
        work()
    except NoSpace as error:
        return error
    return None


def test_a_full_disk_is_named_and_harms_nothing(mount: Callable[[str], Path]) -> None:
    big = {f"{number}.bin": bytes([number]) * 20_000 for number in range(10)}
    full = 0
    sizes = [f"size={pages * 4}k" for pages in range(12, 84, 6)] + [f"nr_inodes={count}" for count in range(18, 42, 2)]
    for options in sizes:
        store = Store(mount(options) / "store")
        put(store, KEY, {"small": b"1"})
        refused = refusal(partial(put, store, OTHER, big))
        if refused is not None:
            full += 1
            assert str(store.root) in refused.what
            assert "--store" in refused.help
            assert "TAPEOUT_STORE" in refused.help
            assert store.read(OTHER) is None
            assert verify(store).clean
            mount("remount,size=2m,nr_inodes=200")
            put(store, OTHER, big)
        assert fetched(Store(store.root), KEY) == {"small": b"1"}
        assert fetched(store, OTHER) == big
        assert verify(store).clean
        assert list(store.tmp.iterdir()) == []
    assert 8 <= full < len(sizes)


def test_a_read_only_store_can_be_read_and_says_that_it_cannot_be_written(mount: Callable[[str], Path]) -> None:
    store = Store(mount("size=1m") / "store")
    put(store)
    mount("remount,ro")
    again = Store(store.root)
    assert fetched(again) == FILES
    assert verify(again).clean
    with pytest.raises(NoSpace, match="Read-only"), again.scratch():
        pass
    with pytest.raises(NoSpace, match="Read-only"), again.lock(OTHER):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_of_somebody_else_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(NoSpace, match="Permission denied"), Store(tmp_path / "store").scratch():
        pass


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM])
def test_storage_errors_are_typed(tmp_path: Path, code: int) -> None:
    with pytest.raises(NoSpace, match=str(tmp_path)) as raised, storage_errors(tmp_path):
        raise OSError(code, os.strerror(code))
    assert str(tmp_path) in raised.value.help
    assert raised.value.exit_code == 8


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), storage_errors(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "x")


def test_a_stage_that_may_not_read_its_source_is_not_a_full_disk(store: Store) -> None:
    with pytest.raises(PermissionError), store.scratch():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "model.safetensors")
    with pytest.raises(NoSpace), store.scratch():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_newer_store_is_refused(store: Store) -> None:
    put(store)
    (store.root / "VERSION").write_text("2\n")
    with pytest.raises(UsageError, match="newer") as raised:
        Store(store.root)
    assert "upgrade" in raised.value.help


@pytest.mark.parametrize("text", ["", "one", "1.5", "\x00"])
def test_a_damaged_version_is_refused(store: Store, text: str) -> None:
    put(store)
    (store.root / "VERSION").write_text(text)
    with pytest.raises(IntegrityError, match="VERSION"):
        Store(store.root)


def test_a_folder_of_something_else_is_not_made_a_store(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for root in [tmp_path, tmp_path / "file"]:
        with pytest.raises(UsageError, match="not a store"):
            Store(root)


def test_a_store_made_by_another_process_meanwhile_is_a_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store)
    monkeypatch.setattr(Path, "exists", lambda _: False)
    Store(store.root)


def test_a_store_whose_making_was_cut_short_is_finished(tmp_path: Path) -> None:
    for name in ["objects", "tmp"]:
        (tmp_path / "store" / name).mkdir(parents=True)
    put(Store(tmp_path / "store"))
    assert (tmp_path / "store" / "VERSION").read_text() == "1\n"


def test_flock_is_what_locks(store: Store) -> None:
    """Another program can wait for a build with the flock command."""
    with store.lock(KEY), (store.locks / KEY).open() as stream, pytest.raises(BlockingIOError):
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
