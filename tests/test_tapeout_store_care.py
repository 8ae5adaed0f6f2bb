"""Care counts, verifies and collects, and takes nothing that somebody uses."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

import tapeout.store
import tapeout.store_care
from export.digest import digest_bytes
from tapeout.durable_files import write_whole
from tapeout.stage_key import Provenance, Record
from tapeout.store import Store
from tapeout.store_care import GRACE_SECONDS, GcResult, gc, stats, verify
from tests.forked import ended, fork

KEYS = [digest_bytes(bytes([number])) for number in range(6)]
DAY = 24 * 3600


def put(store: Store, key: str, data: bytes, stage: str = "hub") -> Record:
    with store.scratch() as scratch:
        (scratch / "blob").write_bytes(data)
        made = Provenance(stage=stage, version="1", parameters={}, inputs={}, tools={})
        return store.publish(key, scratch, made)


def age(store: Store, seconds: float = 2 * DAY) -> None:
    """Make everything in the store look unused for that long."""
    then = time.time() - seconds
    for path in [*store.objects.glob("*/*"), *store.actions.glob("*/*"), *store.tmp.iterdir()]:
        os.utime(path, (then, then))


def data_of(store: Store, key: str) -> bytes | None:
    found = store.read(key)
    return None if found is None else (found[1] / "blob").read_bytes()


def gone(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def abandon_scratch(store: Store) -> None:
    def die() -> None:
        with store.scratch() as scratch:
            (scratch / "half").write_bytes(b"x" * 10)
            os.kill(os.getpid(), signal.SIGKILL)

    assert ended(fork(die)) == -signal.SIGKILL


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", warn=lambda _: None)


def test_stats_of_nothing(store: Store) -> None:
    found = stats(store)
    assert (found.entries, found.objects, found.bytes, found.tmp, found.quarantine) == (0, 0, 0, 0, 0)
    assert verify(store).clean
    assert not store.root.exists()


def test_stats_count_by_stage(store: Store) -> None:
    put(store, KEYS[0], b"12345", "hub")
    put(store, KEYS[1], b"12345", "quantize")
    put(store, KEYS[2], b"123", "quantize")
    put(store, KEYS[3], b"1", "hub")
    (store.object_path(put(store, KEYS[4], b"bad", "hub").object) / "blob").unlink()
    assert store.read(KEYS[4]) is None
    abandon_scratch(store)
    found = stats(store)
    assert (found.entries, found.objects, found.bytes) == (4, 3, 9)
    assert found.by_stage == {"hub": 2, "quantize": 2}
    assert found.stage_bytes == {"hub": 6, "quantize": 8}
    assert (found.tmp, found.quarantine) == (1, 2)


def test_verify_reads_everything(store: Store) -> None:
    records = [put(store, key, key.encode()) for key in KEYS]
    assert verify(store).clean
    flipped = store.object_path(records[0].object) / "blob"
    flipped.chmod(0o644)
    flipped.write_bytes(b"X" + flipped.read_bytes()[1:])
    shutil.rmtree(store.object_path(records[1].object))
    text = store.record_path(KEYS[2]).read_text()
    store.record_path(KEYS[2]).write_text(text.replace("hub", "hob"))
    unreferenced = store.object_path(records[3].object)
    store.record_path(KEYS[3]).unlink()
    (unreferenced / "extra").symlink_to("blob")
    result = verify(store)
    assert not result.clean
    assert (result.objects, result.records) == (5, 5)
    # An object, and the record that named it; a record without its object; a record; an object without a record.
    assert len(result.damage) == 5
    assert [data_of(store, key) for key in KEYS] == [None] * 4 + [KEYS[4].encode(), KEYS[5].encode()]
    assert verify(store).clean


def test_verify_does_not_trust_what_this_process_read_before(store: Store) -> None:
    blob = store.object_path(put(store, KEYS[0], b"good").object) / "blob"
    assert data_of(store, KEYS[0]) == b"good"
    before = blob.stat()
    blob.chmod(0o644)
    blob.write_bytes(b"evil")
    os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not verify(store).clean
    assert data_of(store, KEYS[0]) is None


def test_verify_leaves_what_was_built_again_meanwhile(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, KEYS[0], b"x")
    looks = iter(["damaged", ""])
    monkeypatch.setattr(tapeout.store_care, "_wrong", lambda _: next(looks))
    assert verify(store).clean
    assert data_of(store, KEYS[0]) == b"x"


def test_verify_does_not_count_as_use(store: Store) -> None:
    put(store, KEYS[0], b"old")
    age(store)
    verify(store)
    assert gc(store, [], DAY).records == 1


def test_gc_keeps_what_is_named_and_what_was_used(store: Store) -> None:
    for key in KEYS[:3]:
        put(store, key, key.encode())
    age(store)
    put(store, KEYS[3], b"new")
    assert data_of(store, KEYS[1]) is not None
    result = gc(store, {KEYS[0]}, DAY)
    assert (result.records, result.objects, result.bytes) == (1, 1, 64)
    assert [data_of(store, key) is None for key in KEYS[:4]] == [False, False, True, False]
    assert verify(store).clean
    assert list(store.tmp.iterdir()) == []


def test_gc_keeps_an_object_that_another_record_names(store: Store) -> None:
    put(store, KEYS[0], b"shared")
    put(store, KEYS[1], b"shared")
    age(store)
    assert gc(store, {KEYS[1]}, 0) == GcResult(records=1)
    assert data_of(store, KEYS[1]) == b"shared"


def test_gc_leaves_young_objects_to_their_publishers(store: Store) -> None:
    record = put(store, KEYS[0], b"young")
    store.record_path(KEYS[0]).unlink()
    age(store, GRACE_SECONDS - 60)
    assert gc(store, [], 0).objects == 0
    age(store, GRACE_SECONDS + 60)
    assert gc(store, [], 0).objects == 1
    assert not store.object_path(record.object).exists()


def test_the_object_of_a_slow_stage_is_young_when_published(store: Store) -> None:
    with store.scratch() as scratch:
        (scratch / "blob").write_bytes(b"x")
        os.utime(scratch, (0, 0))
        store.publish(KEYS[0], scratch, Provenance(stage="s", version="1", parameters={}, inputs={}, tools={}))
    store.record_path(KEYS[0]).unlink()
    assert gc(store, [], 0).objects == 0


def test_an_object_published_again_is_young_again(store: Store) -> None:
    put(store, KEYS[0], b"x")
    age(store)
    put(store, KEYS[1], b"x")
    for key in KEYS[:2]:
        store.record_path(key).unlink()
    assert gc(store, [], 0).objects == 0


def test_a_dry_run_says_the_same_and_removes_nothing(store: Store) -> None:
    for key in KEYS:
        put(store, key, key.encode())
    age(store)
    abandon_scratch(store)
    promised = gc(store, KEYS[:2], DAY, dry_run=True)
    assert (promised.records, promised.objects, promised.tmp) == (4, 4, 1)
    assert stats(store).entries == 6
    assert stats(store).tmp == 1
    assert gc(store, KEYS[:2], DAY) == promised


def test_gc_takes_the_scratch_of_the_dead_only(store: Store) -> None:
    abandon_scratch(store)
    with store.scratch() as mine:
        age(store)
        assert gc(store, [], 0).tmp == 1
        assert list(store.tmp.iterdir()) == [mine]


def test_gc_clears_unused_lock_files(store: Store) -> None:
    with store.lock(KEYS[0]):
        pass
    gc(store, [], 0)
    assert {path.name for path in store.locks.iterdir()} <= {"gate", "objects"}
    with store.lock(KEYS[0], waiting=pytest.fail):
        pass


def test_a_clock_set_back_collects_nothing(store: Store) -> None:
    put(store, KEYS[0], b"x")
    age(store, -DAY)
    assert gc(store, [], 0) == GcResult()


def test_gc_touches_nothing_while_another_process_builds(store: Store) -> None:
    put(store, KEYS[0], b"input")
    age(store)
    abandon_scratch(store)
    ready, told = os.pipe()
    wait, go = os.pipe()

    def build() -> None:
        mine = Store(store.root)
        with mine.lock(KEYS[1]):
            os.write(told, b"x")
            os.read(wait, 1)
            assert data_of(mine, KEYS[0]) == b"input"

    child = fork(build)
    os.read(ready, 1)
    assert gc(store, [], 0) == GcResult(busy=True)
    os.write(go, b"x")
    assert ended(child) == 0
    age(store)
    assert gc(store, [], 0).objects == 1


def test_gc_never_takes_a_file_that_is_being_written(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, bool] = {}

    def write(path: Path, data: bytes, temporary: Path) -> None:
        answers[path.name] = gc(Store(store.root), [], 0).busy
        write_whole(path, data, temporary)

    monkeypatch.setattr(tapeout.store, "write_whole", write)
    put(store, KEYS[0], b"x")
    assert answers == {"VERSION": True, f"{KEYS[0]}.json": True}


def test_gc_beside_builders_never_takes_what_they_use(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tapeout.store_care, "GRACE_SECONDS", 0)
    stop = tmp_path / "stop"

    def build() -> None:
        mine = Store(store.root)
        turn = 0
        while not stop.exists():
            turn += 1
            key = KEYS[turn % 3]
            with mine.lock(key):
                if mine.read(key) is None:
                    put(mine, key, key.encode())
                time.sleep(0.001)
                assert data_of(mine, key) == key.encode()
            time.sleep(0.002)

    children = [fork(build) for _ in range(2)]
    collected = busy = 0
    while (collected < 10 or busy < 10) and not any(map(gone, children)):
        result = gc(store, [], 0)
        collected += result.objects
        busy += result.busy
    stop.touch()
    assert [ended(child) for child in children] == [0, 0]
    assert collected >= 10
    assert verify(store).clean
