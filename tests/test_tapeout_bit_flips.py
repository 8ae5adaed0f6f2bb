"""Every changed byte of what is stored or shipped is found at the next look, set aside and made again."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tapeout.manifest import MANIFEST, differences, read_manifest
from tapeout.store import Store
from tapeout.store_care import verify
from targets.errors import IntegrityError
from tests.crash_operations import FILES, NEW, OLD, contents, fill, plain_manifest, put, store_in
from tests.tiers import BIT_FLIPS

SMALL_BYTES = 1 << 12
Change = Callable[[bytes], bytes]


def flip(place: int) -> Change:
    """Turn one bit over."""
    return lambda data: data[: place // 8] + bytes([data[place // 8] ^ 1 << place % 8]) + data[place // 8 + 1 :]


def changes(data: bytes, rng: random.Random, count: int) -> Iterator[Change]:
    """`count` different changes: single bits (every one where they suffice), then truncations and extensions."""
    bits = list(range(len(data) * 8))
    rng.shuffle(bits)
    cut = max(1, count // 20)
    for place in bits[: count - 2 * cut]:
        yield flip(place)
    for _ in range(cut):
        kept = rng.randrange(len(data))
        yield lambda data, kept=kept: data[:kept]  # type: ignore[misc]
        extra = rng.randbytes(rng.randrange(1, 9))
        yield lambda data, extra=extra: data + extra  # type: ignore[misc]


def rewrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def stored_files(store: Store) -> list[Path]:
    """Every record and every file of an object."""
    return sorted(path for part in (store.objects, store.actions) for path in part.rglob("*") if path.is_file())


@BIT_FLIPS.each
def test_every_change_of_a_stored_byte_is_found_and_healed(tmp_path: Path, size: int) -> None:
    rng = random.Random(4)  # noqa: S311 - the same changes in each run
    put(OLD, tmp_path)
    before = {path: path.read_bytes() for path in stored_files(store_in(tmp_path))}
    each = size // len(before) + 1
    looked = 0
    for path, data in before.items():
        for change in changes(data, rng, each):
            rewrite(path, change(data))
            assert store_in(tmp_path).read(OLD) is None, f"{path} was changed and used"
            store = store_in(tmp_path)
            assert any(store.quarantine.iterdir())
            looked += 1
            if looked % 10 == 0:
                # Made again by whoever needs it: the same digests, the damage set aside.
                put(OLD, tmp_path)
                assert {path: path.read_bytes() for path in stored_files(store)} == before
                assert verify(store).clean
            else:
                restore(store, before)
    print(f"{looked} changes, all found")  # noqa: T201
    assert looked >= size


def restore(store: Store, before: dict[Path, bytes]) -> None:
    """Put the sound files back without the cost of a build."""
    for path, data in before.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for path in store.quarantine.iterdir():
        path.rename(store.tmp / path.name)


def small_bundle(folder: Path) -> Path:
    """Files such as a bundle has, with the manifest that names them."""
    names = ("report.json", "report.html", "golden/golden.npz", "packages/cpu/model.bin", "packages/cpu/config.json")
    fill(folder, {name: random.Random(name).randbytes(700) for name in names})  # noqa: S311
    (folder / MANIFEST).write_text(json.dumps(plain_manifest("x", folder), indent=1, sort_keys=True) + "\n")
    return folder


@BIT_FLIPS.each
def test_every_change_of_a_shipped_byte_is_found(tmp_path: Path, size: int) -> None:
    rng = random.Random(5)  # noqa: S311
    bundle = small_bundle(tmp_path / "bundle")
    paths = [path for path in sorted(bundle.rglob("*")) if path.is_file() and path.name != MANIFEST]
    looked = 0
    for path in paths:
        data = path.read_bytes()
        for change in changes(data, rng, size // len(paths) + 1):
            path.write_bytes(change(data))
            (said,) = differences(bundle, read_manifest(bundle))
            assert said.startswith(f"{path.relative_to(bundle)} was changed")
            looked += 1
        path.write_bytes(data)
    assert differences(bundle, read_manifest(bundle)) == []
    assert looked >= size


def test_files_that_change_places_are_found(tmp_path: Path) -> None:
    put(OLD, tmp_path)
    put(NEW, tmp_path)
    store = store_in(tmp_path)
    objects = [store.object_path(record.object) for record in store.records()]
    swapped = [path / "graph.onnx" for path in objects]
    data = [path.read_bytes() for path in swapped]
    for path, other in zip(swapped, reversed(data), strict=True):
        rewrite(path, other)
    assert [store_in(tmp_path).read(key) for key in (OLD, NEW)] == [None, None]
    for key in (OLD, NEW):
        put(key, tmp_path)
        found = store_in(tmp_path).read(key)
        assert found is not None
        assert contents(found[1]) == FILES[key]
    objects[0].rename(tmp_path / "aside")
    objects[1].rename(objects[0])
    (tmp_path / "aside").rename(objects[1])
    assert not verify(store_in(tmp_path)).clean
    assert [store_in(tmp_path).read(key) for key in (OLD, NEW)] == [None, None]


def test_a_manifest_that_is_none_is_refused(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "bundle")
    for text in ("", "{", "[]", '{"files": []}', "\0", '{"files": {"report.json": 1}, "schema_version": 1}'):
        (bundle / MANIFEST).write_text(text)
        try:
            assert differences(bundle, read_manifest(bundle))
        except IntegrityError as error:
            assert error.help  # noqa: PT017 - either way the bundle is refused


def test_the_changes_are_changes() -> None:
    data = bytes(range(64))
    made = [change(data) for change in changes(data, random.Random(1), 100)]  # noqa: S311
    assert len(made) >= 98
    assert data not in made
    with pytest.raises(IndexError):
        flip(8 * 64)(data)
