"""Hostile GGUF files: hand-made headers, and sound files with one field or weight turned against their reader."""

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Kind

from tests.hostile_base import Cases, Damage
from tests.hostile_templates import HUGE
from tests.tiny_gguf import Decoder, Vocabulary, byte_level, sentencepiece, write_model

UINT8, UINT32, FLOAT32, STRING, ARRAY, UINT64 = 0, 4, 6, 8, 9, 10
SMALL = Decoder(layers=1, tied=True)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def field(key: bytes, kind: int, payload: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + payload


def record(name: bytes, dimensions: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    sizes = b"".join(struct.pack("<Q", size) for size in dimensions)
    return text(name) + struct.pack("<I", len(dimensions)) + sizes + struct.pack("<IQ", kind, offset)


def made(fields: tuple[bytes, ...] = (), records: tuple[bytes, ...] = (), room: int = 0) -> Damage:
    """A file of these fields and tensor records, with `room` bytes of weights."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(records), len(fields)) + b"".join(fields + records)
    return raw(head + bytes(-len(head) % 32 + room))


def raw(data: bytes) -> Damage:
    return lambda path: path.write_bytes(data)


def array(kind: int, count: int, payload: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + payload


def of_vocabulary(change: Callable[[Vocabulary], Vocabulary]) -> Damage:
    return lambda path: write_model(path, SMALL, change(byte_level("gpt-2")))


def of_fields(**extra: object) -> Damage:
    fields = {key.replace("__", "."): value for key, value in extra.items()}
    return lambda path: write_model(path, SMALL, byte_level("gpt-2"), fields)


def poisoned(kind: Kind, pattern: bytes) -> Damage:
    """A sound file whose last bytes, a block scale or a weight, are `pattern`."""

    def make(path: Path) -> None:
        from gguf import GGUFReader

        write_model(path, replace(SMALL, kind=kind), byte_level("gpt-2"))
        reader = GGUFReader(path)
        tensor = next(each for each in reader.tensors if each.name == "blk.0.ffn_up.weight")
        data = bytearray(path.read_bytes())
        data[tensor.data_offset : tensor.data_offset + len(pattern)] = pattern
        path.write_bytes(data)

    return make


def trailing(path: Path) -> None:
    write_model(path, SMALL, byte_level("gpt-2"))
    with path.open("ab") as stream:
        stream.truncate(1 << 40)


def many_numbers(path: Path) -> None:
    """Ten arrays of four million numbers, each within bounds."""
    payload = np.zeros(4_000_000, "<u1").tobytes()
    fields = tuple(field(b"k%d" % number, ARRAY, array(UINT8, 4_000_000, payload)) for number in range(10))
    made(fields)(path)


def long_piece(path: Path) -> None:
    vocabulary = sentencepiece()
    tokens = (*vocabulary.tokens[:-1], "a" * 4000)
    write_model(path, SMALL, replace(vocabulary, tokens=tokens))


def swap_tokens(vocabulary: Vocabulary) -> Vocabulary:
    return replace(vocabulary, tokens=(*vocabulary.tokens[:-1], vocabulary.tokens[0]))


NOT_SOUND = "is not a sound GGUF file"
CASES: Cases = {
    "no bytes": (raw(b""), NOT_SOUND),
    "a zip in its place": (raw(b"PK\x03\x04" + bytes(100)), NOT_SOUND),
    "an ELF in its place": (raw(b"\x7fELF" + bytes(100)), NOT_SOUND),
    "version 2^32-1": (raw(b"GGUF" + b"\xff" * 4 + bytes(16)), "version"),
    "2^64-1 fields (CVE-2024-23605)": (raw(b"GGUF" + struct.pack("<IQQ", 3, 0, 2**64 - 1)), "metadata fields"),
    "2^40 tensors": (raw(b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0)), "number of tensors"),
    "array of 2^63, 49 bytes (hangs gguf-py)": (
        raw((b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + field(b"k", ARRAY, array(UINT8, 1 << 63)))[:49]),
        "element count",
    ),
    "array of 2^62 strings": (made((field(b"k", ARRAY, array(STRING, 1 << 62)),)), "element count"),
    "array of arrays": (made((field(b"k", ARRAY, array(ARRAY, 1, array(ARRAY, 1))),)), "array of arrays"),
    "string of 2^64-1 bytes": (made((field(b"k", STRING, struct.pack("<Q", 2**64 - 1)),)), "length"),
    "key of 2^62 bytes": (raw(b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 62)), "length"),
    "key that is not UTF-8": (made((field(b"\xff\xfe", UINT32, bytes(4)),)), "UTF-8"),
    "unknown value type": (made((field(b"k", 0xDEAD, bytes(8)),)), "unknown value type"),
    "field twice": (made((field(b"k", UINT32, bytes(4)),) * 2), "twice"),
    "40 million numbers": (many_numbers, "values"),
    "alignment 2^31 (llama.cpp 24997)": (
        made((field(b"general.alignment", UINT32, struct.pack("<I", 1 << 31)),)),
        "alignment",
    ),
    "alignment 0": (made((field(b"general.alignment", UINT32, bytes(4)),)), "alignment"),
    "2^32-1 dimensions (CVE-2024-21802)": (
        made((), (text(b"t") + struct.pack("<I", 2**32 - 1),)),
        "dimensions",
    ),
    "shape that wraps (CVE-2025-53630)": (made((), (record(b"t", (1 << 33, 1 << 33)),), 64), "shape"),
    "offset that wraps": (made((), (record(b"t", (4,), offset=2**64 - 32),), 64), "ends inside"),
    "weights beyond the file": (made((), (record(b"t", (1 << 40,)),), 64), "ends inside"),
    "tensors overlap": (made((), (record(b"a", (16,)), record(b"b", (16,), offset=32)), 128), "overlaps"),
    "tensor twice": (made((), (record(b"t", (4,)),) * 2, 32), "twice"),
    "unknown tensor type": (made((), (record(b"t", (4,), kind=255),), 64), "unknown tensor type"),
    "half a block": (made((), (record(b"t", (33,), kind=8),), 64), "impossible"),
    "a terabyte after the last tensor": (trailing, "after"),
    "NaN among float weights": (poisoned(Kind.F32, b"\0\0\xc0\x7f"), "not finite"),
    "infinite scale of a block": (poisoned(Kind.Q4_0, b"\0\x7c"), "not finite"),
    "another architecture": (of_fields(general__architecture="evil"), "evil"),
    "experts": (of_fields(llama__expert_count=8), "mixture of experts"),
    "end of text beyond the vocabulary": (of_fields(tokenizer__ggml__eos_token_id=1 << 30), "not among"),
    "unknown pre-tokenizer": (of_fields(tokenizer__ggml__pre="../../x"), "pre-tokenizer"),
    "two tokens alike": (of_vocabulary(swap_tokens), "same text"),
    "merge of tokens that are not there": (
        of_vocabulary(lambda found: replace(found, merges=("zz\x00 yy",))),
        "merge",
    ),
    "piece of 4,000 characters": (long_piece, "4000 characters"),
    "template that loops for ever (CVE-2026-5760)": (of_fields(tokenizer__chat_template=HUGE), "template"),
    "template of 65 KiB": (of_fields(tokenizer__chat_template="x" * (65 << 10)), "template"),
    "template that leaves the sandbox": (
        of_fields(tokenizer__chat_template="{{ cycler.__init__.__globals__ }}"),
        "template",
    ),
}
