"""Builders of small GGUF files: vocabularies learnt from a page of text, and a decoder of a few thousand weights."""

import functools
import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

CORPUS = (
    "The model is small and the device is small: 123 tokens, 1234 bytes, 2024-11-21, 3.14159 and 100000. "
    "It's what we'll ship; don't you think they've tried? IT'S WHAT WE'LL SHIP.\n\nfor (int i = 0; i < 10"
    "; i++) {\n\tx[i] += 1;\n}\n    return x;\n  indented  twice\r\n\r\nna\xefve caf\xe9 \xc5ngstr\xf6m d"
    "\xe9j\xe0 vu; \u4f60\u597d\u4e16\u754c\uff0c\u4e2d\u6587\u5b57\u7b26\u3002\u65e5\u672c\u8a9e \ud55c"
    "\uad6d\uc5b4 \u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440 \U0001f600\U0001f600\U0001f44d."
    " "
)
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer fields of a GGUF file."""

    model: str
    pre: str | None
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    extra: Mapping[str, Any] | None = None

    def index(self, token: str) -> int:
        return self.tokens.index(token)


def byte_letters() -> dict[int, str]:
    """The letter that byte-level BPE writes for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


@functools.cache
def learn(words: tuple[str, ...], count: int) -> list[tuple[str, str]]:
    """The first `count` merges of byte-pair encoding over `words`, the most frequent first."""
    pieces = Counter(tuple(word) for word in words)
    merges: list[tuple[str, str]] = []
    for _ in range(count):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, times in pieces.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += times
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        pieces = Counter({_join(word, best): times for word, times in pieces.items()})
    return merges


def _join(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    joined: list[str] = []
    for piece in word:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return tuple(joined)


def byte_level(pre: str | None, extra: Mapping[str, Any] | None = None) -> Vocabulary:
    """A GPT-2 style vocabulary; its merges cross every boundary a pre-tokenizer may or may not draw."""
    letters = byte_letters()
    windows = [CORPUS[start : start + 8] for start in range(0, len(CORPUS) - 8, 3)]
    merges = learn(tuple("".join(letters[byte] for byte in window.encode()) for window in windows), 250)
    whole = "".join(letters[byte] for byte in b" tapeout")
    tokens = list(dict.fromkeys([*letters.values(), *(left + right for left, right in merges), whole]))
    types = [NORMAL] * len(tokens) + [CONTROL] * 3 + [USER_DEFINED]
    tokens += ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool>"]
    fields = {"tokenizer.ggml.eos_token_id": len(tokens) - 2} | dict(extra or {})
    return Vocabulary("gpt2", pre, tuple(tokens), tuple(types), tuple(f"{a} {b}" for a, b in merges), extra=fields)


def sentencepiece(extra: Mapping[str, Any] | None = None) -> Vocabulary:
    """A Llama 2 style vocabulary: scored pieces with a byte for whatever has no piece."""
    text = CORPUS.split("\U0001f600", maxsplit=1)[0].replace("\n", "")
    words = ["\u2581" + word for word in text.split(" ")] * 2 + ["\u2581\u2581\u2581\u2581"]
    merges = learn(tuple(words), 200)
    pieces = [left + right for left, right in merges]
    letters = sorted({letter for word in words for letter in word})
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    normal = list(dict.fromkeys([*pieces, *letters]))
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(normal) + [USER_DEFINED]
    scores = [0.0] * len(special) + [-float(rank) for rank in range(len(normal))] + [0.0]
    ids = {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0}
    return Vocabulary(
        "llama", "default", (*special, *normal, "<tool>"), tuple(types), (), tuple(scores), ids | dict(extra or {})
    )


def add_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    if vocabulary.pre is not None:
        writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    if vocabulary.merges:
        writer.add_token_merges(list(vocabulary.merges))
    if vocabulary.scores:
        writer.add_token_scores(list(vocabulary.scores))
    for key, value in (vocabulary.extra or {}).items():
        add_value(writer, key, value)


def add_value(writer: GGUFWriter, key: str, value: object) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, str(value))


def write_vocabulary(path: Path, vocabulary: Vocabulary) -> Path:
    """A GGUF file without tensors: enough for a tokenizer."""
    writer = GGUFWriter(path, "llama")
    add_vocabulary(writer, vocabulary)
    return _write(writer, path)


@dataclass(frozen=True)
class Decoder:
    """The dimensions of a tiny decoder; each row is one block of 32 weights or a multiple of it."""

    architecture: str = "llama"
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 96
    tied: bool = False
    kind: GGMLQuantizationType = GGMLQuantizationType.F32


def tensors_of(decoder: Decoder, vocab_size: int) -> dict[str, np.ndarray]:
    """Seeded float32 tensors under their GGUF names, rows first."""
    head_dim = decoder.hidden // decoder.heads
    kv = decoder.kv_heads * head_dim
    hidden, wide = decoder.hidden, decoder.intermediate
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocab_size, hidden), "output_norm.weight": (hidden,)}
    if not decoder.tied:
        shapes["output.weight"] = (vocab_size, hidden)
    for layer in range(decoder.layers):
        block = {
            "attn_norm.weight": (hidden,), "ffn_norm.weight": (hidden,), "attn_q.weight": (hidden, hidden),
            "attn_k.weight": (kv, hidden), "attn_v.weight": (kv, hidden), "attn_output.weight": (hidden, hidden),
            "ffn_gate.weight": (wide, hidden), "ffn_up.weight": (wide, hidden), "ffn_down.weight": (hidden, wide),
        }  # fmt: skip
        if decoder.architecture == "qwen2":
            block |= {"attn_q.bias": (hidden,), "attn_k.bias": (kv,), "attn_v.bias": (kv,)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    random = np.random.default_rng(7)
    return {name: random.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}


def write_model(path: Path, decoder: Decoder, vocabulary: Vocabulary, extra: Mapping[str, Any] | None = None) -> Path:
    """A GGUF file of the whole decoder; `extra` are further metadata fields."""
    writer = GGUFWriter(path, decoder.architecture)
    writer.add_block_count(decoder.layers)
    writer.add_context_length(128)
    writer.add_embedding_length(decoder.hidden)
    writer.add_feed_forward_length(decoder.intermediate)
    writer.add_head_count(decoder.heads)
    writer.add_head_count_kv(decoder.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(vocabulary.tokens))
    add_vocabulary(writer, vocabulary)
    for key, value in (extra or {}).items():
        add_value(writer, key, value)
    for name, array in tensors_of(decoder, len(vocabulary.tokens)).items():
        kind = decoder.kind if array.ndim == 2 else GGMLQuantizationType.F32
        writer.add_tensor(name, quantize(array, kind), raw_dtype=kind)
    return _write(writer, path)


def _write(writer: GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
