"""What the KV cache's precision saves and costs at long context, through the runtime that ships."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.package import Package
from export.model import ModelFacts
from targets.names import choose
from validate.fidelity import Reference, score_window
from validate.golden import Golden
from validate.onnx_cache import with_float_cache
from validate.runtime import DEPLOYED, Runtime, Session
from validate.windows import STEP, read

Progress = Callable[[int, int], None]

# OpenVINO's CPU plugin stores a scale and a zero point, float32 each, beside the codes of every head of every token.
OPENVINO_BITS = {"f32": (32, 0), "bf16": (16, 0), "f16": (16, 0), "u8": (8, 8), "u4": (4, 8)}
OPENVINO_BASELINE = "f16"
OPENVINO_SETTING = "KV_CACHE_PRECISION"

# ONNX Runtime's scales are constants of the graph: a token adds its codes alone.
ONNXRUNTIME_BITS = {"float32": (32, 0), "int8": (8, 0)}
ONNXRUNTIME_SETTING = "kv_cache"
ROOM = 8  # tokens of KV cache beyond the text


@dataclass(frozen=True)
class CachePrecision:
    """One precision of the KV cache.

    Attributes:
        precision: as the runtime calls it.
        bytes_per_token: codes, scales and zero points of all layers.
        kl_mean: mean KL from the float model at the long text's last positions, nats; None: not run.
        kl_cost: that minus the baseline's, which may be below zero by chance; None: not run.
        ships: the package is loaded with this one.
    """

    precision: str
    bytes_per_token: int
    kl_mean: float | None
    kl_cost: float | None
    ships: bool


@dataclass(frozen=True)
class KvCache:
    """The KV cache at long context.

    Attributes:
        rows: the precisions, widest first.
        baseline: the one that costs are counted from: 16 bits, or the widest where the runtime has no 16-bit cache.
        bytes_per_token_16bit: what 16 bits would take, whether or not the runtime has them.
        saving: share of that, 0 to 1, which the shipped precision saves; negative when it takes more.
        after: tokens of context before the first position compared.
        positions: how many were compared; 0: nothing was run.
    """

    rows: tuple[CachePrecision, ...]
    baseline: str
    bytes_per_token_16bit: int
    saving: float
    after: int
    positions: int

    @property
    def shipped(self) -> CachePrecision:
        """The row that ships."""
        return next(row for row in self.rows if row.ships)


@dataclass(frozen=True)
class Opened:
    """One precision and a way to run it; `session` is None when running it would tell nothing."""

    precision: str
    bits: tuple[int, int]
    session: Callable[[], Session] | None


def measure_kv_cache(
    runtime: Runtime, package: Package, golden: Golden, progress: Progress, also: tuple[str, ...] = ()
) -> KvCache | None:
    """Run the long golden text with the cache that ships and with the baseline it is held against.

    Everything but the cache is as the package ships. Nothing of the first `golden.plan.long_after` tokens is compared;
    all after them are, and read them back from the cache.

    Args:
        runtime: of the package.
        package: says in its settings what it stores its cache in.
        golden: holds the long text.
        progress: called with (precisions done, precisions in all).
        also: other precisions to run, where the runtime has a choice: OpenVINO's `f32`, `bf16`, `u8` and `u4`.

    Returns:
        None when the golden set holds no long text, the package does not say what it stores its cache in, or its
        runtime has one form of cache only.
    """
    long = golden.long()
    shipped = shipped_precision(package.backend, package.settings)
    if long is None or shipped is None:
        return None
    tokens, reference = long
    positions = len(reference.ids)
    after = golden.plan.long_after
    opened = list(OPENERS[package.backend](runtime, package, (shipped, *also), len(tokens)))
    measured: list[tuple[Opened, float | None]] = []
    for index, each in enumerate(opened):
        kl = None if each.session is None else long_divergence(each.session(), tokens, reference)
        measured.append((each, kl))
        progress(index + 1, len(opened))
    return summarise_cache(measured, shipped, package.facts, after, positions)


def shipped_precision(backend: str, settings: Mapping[str, Any]) -> str | None:
    """What a package's own settings store the cache in."""
    setting = {"openvino": OPENVINO_SETTING, "onnxruntime": ONNXRUNTIME_SETTING}.get(backend)
    return None if setting is None else settings.get(setting)


def openvino_sessions(runtime: Runtime, package: Package, precisions: tuple[str, ...], length: int) -> Iterator[Opened]:
    """The same package with another property.

    Raises:
        UsageError: the plugin has no such precision.
    """
    bits = {name: choose(name, OPENVINO_BITS, "KV cache precision") for name in (OPENVINO_BASELINE, *precisions)}
    for precision in sorted(bits, key=lambda name: (-bits[name][0], name)):

        def session(precision: str = precision) -> Session:
            settings = {**package.settings, OPENVINO_SETTING: precision}
            return runtime.session(package.folder, settings, DEPLOYED)

        yield Opened(precision, bits[precision], session)


def onnxruntime_sessions(
    runtime: Runtime, package: Package, precisions: tuple[str, ...], length: int
) -> Iterator[Opened]:
    """The package as it is and, where its cache is quantized, with the graph's quantization taken out.

    A float32 cache is alone, since the CPU kernels have nothing between; running it would compare it with itself.
    """
    shipped = precisions[0]
    if shipped == "float32":
        yield Opened(shipped, ONNXRUNTIME_BITS[shipped], None)
        return
    float_cache = (with_float_cache,)
    yield Opened(
        "float32", ONNXRUNTIME_BITS["float32"], lambda: onnxruntime_session(package.folder, length, float_cache)
    )
    yield Opened(shipped, ONNXRUNTIME_BITS[shipped], lambda: onnxruntime_session(package.folder, length))


Opener = Callable[[Runtime, Package, tuple[str, ...], int], Iterator[Opened]]
OPENERS: Mapping[str, Opener] = {"openvino": openvino_sessions, "onnxruntime": onnxruntime_sessions}


def onnxruntime_session(folder: Path, length: int, changes: Sequence[Callable[[bytes], bytes]] = ()) -> Session:
    """A package's session with room for `length` tokens, `changes` made to its graph."""
    from validate.onnxruntime_runtime import OnnxRuntimeSession

    session = OnnxRuntimeSession(folder, changes)
    session.capacity = length + ROOM
    return session


def long_divergence(session: Session, tokens: NDArray[np.int64], reference: Reference) -> float:
    """Mean KL, nats, at the last positions of `tokens` [n], those of `reference`."""
    before = len(tokens) - len(reference.ids)
    session.reset()
    read(session, tokens[:before])
    found = []
    for start in range(before, len(tokens), STEP):
        part = reference.part(start - before, start - before + STEP)
        found.append(score_window(part, session.step(tokens[start : start + STEP]), 0).kl)
    return float(np.concatenate(found).mean())


def cache_bytes(bits: tuple[int, int], facts: ModelFacts) -> int:
    """Bytes that one more token takes in the caches of all layers.

    Args:
        bits: of each code, and the bytes of scales and zero points beside each head's codes.
        facts: the architecture.
    """
    width, beside = bits
    head = facts.head_dim * width // 8 + beside
    return 2 * facts.n_layers * facts.n_kv_heads * head


def summarise_cache(
    measured: list[tuple[Opened, float | None]], shipped: str, facts: ModelFacts, after: int, positions: int
) -> KvCache:
    """The rows, their costs counted from the 16-bit one or, where there is none, the widest."""
    baseline, against = next(((each, kl) for each, kl in measured if each.bits == (16, 0)), measured[0])
    rows = tuple(
        CachePrecision(
            precision=each.precision,
            bytes_per_token=cache_bytes(each.bits, facts),
            kl_mean=kl,
            kl_cost=None if kl is None or against is None else kl - against,
            ships=each.precision == shipped,
        )
        for each, kl in measured
    )
    half = cache_bytes((16, 0), facts)
    taken = next(row.bytes_per_token for row in rows if row.ships)
    ran = positions if any(row.kl_mean is not None for row in rows) else 0
    return KvCache(rows, baseline.precision, half, 1 - taken / half, after, ran)
