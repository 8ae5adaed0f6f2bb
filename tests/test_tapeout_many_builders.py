"""Sixteen builders of the same keys, some of them killed, and a collector that comes by while a build is held."""

import os
import random
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path

from export.digest import digest_bytes
from tapeout.stage_key import Provenance
from tapeout.store import Store
from tapeout.store_care import gc, verify
from tests.forked import fork
from tests.tiers import COLLECTIONS, CONCURRENT_BUILDS

BUILDERS = 16
KILLED = 4
LIMIT_S = 120


def key_of(number: int) -> str:
    return digest_bytes(b"key %d" % number)


def data_of(number: int) -> bytes:
    return b"%d" % number * 5000


def build(root: Path, number: int) -> None:
    """What the executor does for one stage: look, wait for the key, look again, make, publish and say so."""
    store = Store(root / "store", warn=lambda _: None)
    key = key_of(number)
    if store.read(key) is None:
        with store.lock(key):
            if store.read(key) is None:
                with store.scratch() as scratch:
                    (scratch / "blob").write_bytes(data_of(number))
                    time.sleep(0.002)
                    made = Provenance(stage="s", version="1", parameters={}, inputs={}, tools={})
                    store.publish(key, scratch, made)
                with (root / "published").open("a") as log:
                    log.write(f"{number}\n")
    found = store.read(key)
    assert found is not None
    assert (found[1] / "blob").read_bytes() == data_of(number)


def builder(root: Path, keys: int, seed: int, start: int) -> None:
    os.read(start, 1)
    order = list(range(keys))
    random.Random(seed % 4).shuffle(order)  # noqa: S311 - the same keys at about the same time
    for number in order:
        build(root, number)


def ended(child: int, deadline: float) -> int:
    """The exit code; a builder that never ends is a deadlock."""
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("deadlock")


@CONCURRENT_BUILDS.each
def test_sixteen_builders_make_every_key_once_though_some_are_killed(tmp_path: Path, size: int) -> None:
    start, go = os.pipe()
    children = [fork(partial(builder, tmp_path, size, seed, start)) for seed in range(BUILDERS)]
    os.write(go, b"x" * BUILDERS)
    for child in children[:KILLED]:
        time.sleep(0.05)
        os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + LIMIT_S
    codes = [ended(child, deadline) for child in children]
    assert codes[KILLED:] == [0] * (BUILDERS - KILLED)
    assert set(codes[:KILLED]) <= {0, -signal.SIGKILL}
    store = Store(tmp_path / "store", warn=lambda _: None)
    assert verify(store).clean
    assert store.keys() == sorted(key_of(number) for number in range(size))
    made = Counter((tmp_path / "published").read_text().split())
    # Whoever was killed between publishing and saying so has said nothing.
    assert max(made.values()) == 1
    assert size - KILLED <= len(made) <= size
    assert gc(store, store.keys(), 0).tmp <= KILLED
    assert not list(store.tmp.iterdir())


@COLLECTIONS.each
def test_a_collector_takes_nothing_from_a_build_that_is_held(tmp_path: Path, size: int) -> None:
    store = Store(tmp_path / "store", warn=lambda _: None)
    (tmp_path / "published").touch()
    for turn in range(size):
        build(tmp_path, turn)
        folder = store.read(key_of(turn))
        assert folder is not None
        ready, told = os.pipe()
        wait, go = os.pipe()

        def hold(turn: int = turn, told: int = told, wait: int = wait) -> None:
            mine = Store(store.root)
            with mine.lock(key_of(size + turn)):
                os.write(told, b"x")
                os.read(wait, 1)
                found = mine.read(key_of(turn))
                assert found is not None
                assert (found[1] / "blob").read_bytes() == data_of(turn)

        child = fork(partial(hold))
        os.read(ready, 1)
        for path in [*store.objects.glob("*/*"), *store.actions.glob("*/*")]:
            os.utime(path, (0, 0))
        assert gc(store, [], 0).busy
        os.write(go, b"x")
        assert ended(child, time.monotonic() + LIMIT_S) == 0
        for handle in (ready, told, wait, go):
            os.close(handle)
        for path in [*store.objects.glob("*/*"), *store.actions.glob("*/*")]:
            os.utime(path, (0, 0))
        collected = gc(store, [], 0)
        assert (collected.records, collected.objects, collected.busy) == (1, 1, False)
    assert verify(store).clean
