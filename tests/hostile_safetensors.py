"""Hostile safetensors files and indexes, by the rule they break."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile_base import (
    NORM,
    Cases,
    Damage,
    header,
    raw_header,
    read_header,
    sparse,
    write,
    write_header,
)

EMBED = "model.embed_tokens.weight"
INDEX = "model.safetensors.index.json"


def poison(dtype: str, pattern: bytes) -> Damage:
    """Store the last norm as `dtype`, its first value being `pattern`."""

    def damage(folder: Path) -> None:
        found, data = read_header(folder / "model.safetensors")
        begin, end = found[NORM]["data_offsets"]
        values = np.frombuffer(data[begin:end], "<f4")
        kept = {"F32": values.astype("<f4"), "F16": values.astype("<f2")}.get(dtype)
        stored = (values.view("<u4") >> 16).astype("<u2").tobytes() if kept is None else kept.tobytes()
        found[NORM] |= {"dtype": dtype, "data_offsets": [begin, begin + len(stored)]}
        for entry in found.values():
            if "data_offsets" in entry and entry["data_offsets"][0] >= end:
                entry["data_offsets"] = [place - (end - begin) + len(stored) for place in entry["data_offsets"]]
        write_header(folder / "model.safetensors", found, data[:begin] + pattern + stored[len(pattern) :] + data[end:])

    return damage


def shift(name: str, begin: int, end: int) -> Damage:
    def change(found: dict[str, Any]) -> None:
        first, last = found[name]["data_offsets"]
        found[name]["data_offsets"] = [first + begin, last + end]

    return header(change)


def entry(name: str, **changes: Any) -> Damage:
    return header(lambda found: found[name].update(changes))


def extra_tensor(name: str) -> Damage:
    def damage(folder: Path) -> None:
        found, data = read_header(folder / "model.safetensors")
        found[name] = {"dtype": "F32", "shape": [2], "data_offsets": [len(data), len(data) + 8]}
        write_header(folder / "model.safetensors", found, data + bytes(8))

    return damage


def twice(folder: Path) -> None:
    found, data = read_header(folder / "model.safetensors")
    text = json.dumps(found)
    write_header(folder / "model.safetensors", (text[:-1] + "," + text[1:]).encode(), data)


def sharded(weight_map: Any) -> Damage:
    """Turn the folder into one shard and an index."""

    def damage(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "a.safetensors")
        names = read_header(folder / "a.safetensors")[0].keys() - {"__metadata__"}
        default = dict.fromkeys(names, "a.safetensors")
        (folder / INDEX).write_text(json.dumps({"weight_map": weight_map(default)}))

    return damage


def both_shards(folder: Path) -> None:
    sharded(lambda found: found)(folder)
    (folder / "b.safetensors").write_bytes((folder / "a.safetensors").read_bytes())


def many_tensors(folder: Path) -> None:
    empty = {f"t{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(150_000)}
    write_header(folder / "model.safetensors", empty, b"")


NOT_SOUND = "is not a sound safetensors file"
CASES: Cases = {
    "header of 2^63 bytes": (write("model.safetensors", b"\xff" * 7 + b"\x7f" + bytes(8)), NOT_SOUND),
    "header of 2^64-1 bytes": (write("model.safetensors", b"\xff" * 8), NOT_SOUND),
    "no bytes": (write("model.safetensors", b""), NOT_SOUND),
    "shorter than its length field": (write("model.safetensors", b"\x01\0\0"), NOT_SOUND),
    "header is no JSON": (raw_header(b"{'a': 1}"), "not sound JSON"),
    "header is a list": (raw_header(b"[]"), "not a JSON object"),
    "header is not UTF-8": (raw_header(b'{"\xff\xfe": 1}'), "not sound JSON"),
    "header is NaN": (raw_header(b'{"a": NaN}'), "not a number"),
    "header 100,000 levels deep": (raw_header(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "too deep"),
    "number of 100,000 digits": (raw_header(b'{"a":' + b"9" * 100_000 + b"}"), "not sound JSON"),
    "150,000 empty tensors": (many_tensors, "header"),
    "header of 64 MB of blanks": (raw_header(b"{" + b" " * (64 << 20) + b"}"), "does not fit"),
    "tensor named twice": (twice, "appears twice"),
    "hole between tensors": (shift(NORM, 4, 4), NOT_SOUND),
    "tensors overlap": (shift(NORM, -4, -4), NOT_SOUND),
    "end before begin": (entry(NORM, data_offsets=[64, 0]), NOT_SOUND),
    "negative offset": (entry(NORM, data_offsets=[-128, 0]), "not whole numbers"),
    "offset beyond the file": (shift(NORM, 1 << 40, 1 << 40), NOT_SOUND),
    "offset is a float": (entry(NORM, data_offsets=[0.0, 128.0]), "not whole numbers"),
    "offset is a truth value": (entry(NORM, data_offsets=[False, True]), "not whole numbers"),
    "shape that wraps 64 bits": (entry(NORM, shape=[1 << 32, 1 << 32]), NOT_SOUND),
    "shape of 100,000 dimensions": (entry(NORM, shape=[1] * 100_000), "dimensions"),
    "unknown dtype": (entry(NORM, dtype="F128"), "unknown dtype"),
    "bytes after the last tensor": (sparse("model.safetensors", 1 << 20), NOT_SOUND),
    "a terabyte after the last tensor": (sparse("model.safetensors", 1 << 40), NOT_SOUND),
    "metadata of numbers": (header(lambda found: found.update(__metadata__={"format": 1})), "metadata"),
    "tensor named like a path (traversal)": (extra_tensor("../../../etc/passwd"), "no place"),
    "tensor named with an escape sequence": (extra_tensor("\x1b]0;pwned\x07"), "no place"),
    "integers in place of weights": (entry(NORM, dtype="I32"), "not a float"),
    "weights of another shape": (entry(NORM, shape=[8, 4]), "not a float"),
    "NaN in float32 weights": (poison("F32", b"\0\0\xc0\x7f"), "not finite"),
    "infinity in float16 weights": (poison("F16", b"\0\x7c"), "not finite"),
    "NaN in bfloat16 weights": (poison("BF16", b"\xc0\x7f"), "not finite"),
    "index leaves the folder": (sharded(lambda found: found | {NORM: "../a.safetensors"}), "no file of the folder"),
    "index names an absolute path": (sharded(lambda found: found | {NORM: "/etc/passwd"}), "no file of the folder"),
    "index names a NUL": (sharded(lambda found: found | {NORM: "a\0.safetensors"}), "no file of the folder"),
    "index names a number": (sharded(lambda found: found | {NORM: 7}), "no file of the folder"),
    "index without a map": (sharded(lambda _: None), "no weight_map"),
    "index lacks a tensor": (sharded(lambda found: {EMBED: "a.safetensors"}), "do not hold the same"),
    "tensor in two shards": (both_shards, "do not hold the same"),
}
