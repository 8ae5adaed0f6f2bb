"""Decode speed beside what memory bandwidth allows: the roofline (Williams et al., CACM 52(4), 2009) at one token.

A decoder that answers one user reads every weight and the whole KV cache once a token, and computes next to nothing
with each byte. So it can do no more than bandwidth / bytes per token, and the share of that which it reaches is the
share of each token's time that memory needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from compile.package import Package
from export.model import ModelFacts
from validate.bandwidth import Bandwidth
from validate.kv_cache import ONNXRUNTIME_BITS, OPENVINO_BITS, cache_bytes, shipped_precision
from validate.measurement import Latency

# The file that holds a package's weights, and nothing else of any size. A runtime that is not here does not compute
# with this machine's memory, or its package holds more than one graph over the same weights.
WEIGHT_FILES = {"openvino": "openvino_model.bin", "onnxruntime": "model.onnx.data"}
ROTARY = "onnxruntime"  # whose packages tabulate the rotary embedding
CACHE_BITS = {"openvino": OPENVINO_BITS, "onnxruntime": ONNXRUNTIME_BITS}

SCALE_BYTES = 4  # one float32 for each row of an 8-bit table
BANDWIDTH_SHARE = 0.5  # from here on memory takes the larger part of a token's time


@dataclass(frozen=True)
class RooflinePoint:
    """Decoding after one prompt length.

    Attributes:
        prompt_tokens: length of the prompt.
        context_tokens: tokens in the KV cache halfway through the answer.
        bytes_per_token: weights and KV cache that one token reads.
        tokens_per_second: measured.
        roof: tokens per second that the bandwidth allows.
        fraction: of the roof that was reached, 0 to 1.
    """

    prompt_tokens: int
    context_tokens: int
    bytes_per_token: int
    tokens_per_second: float
    roof: float
    fraction: float

    @property
    def bound(self) -> str:
        """What more speed would take: `bandwidth` (fewer bytes), or `overhead` (less work around each byte)."""
        return "bandwidth" if self.fraction >= BANDWIDTH_SHARE else "overhead"


@dataclass(frozen=True)
class Roofline:
    """A package under the roof of this machine's memory.

    Attributes:
        weight_bytes: of the weights that every token reads: all but a token table that nothing multiplies by.
        cache_bytes_per_token: of the KV cache, for each token of context.
        bandwidth: the roof.
        points: by prompt length, ascending.
    """

    weight_bytes: int
    cache_bytes_per_token: int
    bandwidth: Bandwidth
    points: tuple[RooflinePoint, ...]


def roofline_of(package: Package, latency: Sequence[Latency], bandwidth: Bandwidth) -> Roofline | None:
    """The roofline of a package that was timed on this machine's CPU; None where its bytes cannot be counted."""
    precision = shipped_precision(package.backend, package.settings)
    if package.backend not in WEIGHT_FILES or precision not in CACHE_BITS[package.backend]:
        return None
    weights = weights_read(package)
    cache = cache_bytes(CACHE_BITS[package.backend][precision], package.facts)
    points = tuple(point_of(one, weights, cache, bandwidth) for one in latency if one.tpot_ms.median > 0)
    return Roofline(weights, cache, bandwidth, points)


def point_of(latency: Latency, weights: int, cache: int, bandwidth: Bandwidth) -> RooflinePoint:
    """One prompt length."""
    context = latency.prompt_tokens + latency.new_tokens // 2
    size = weights + cache * context
    speed, roof = 1e3 / latency.tpot_ms.median, bandwidth.bytes_per_second / size
    return RooflinePoint(latency.prompt_tokens, context, size, speed, roof, speed / roof)


def weights_read(package: Package) -> int:
    """Bytes of weights that one token reads."""
    stored = (package.folder / WEIGHT_FILES[package.backend]).stat().st_size
    return stored - gathered_only(package.facts) - (rotary_table(package.facts) if package.backend == ROTARY else 0)


def gathered_only(facts: ModelFacts) -> int:
    """Bytes of the token table where it is no head as well: a token reads one row of it. It is stored in 8 bits."""
    return 0 if facts.tied_embeddings else facts.vocab_size * (facts.hidden_size + SCALE_BYTES)


def rotary_table(facts: ModelFacts) -> int:
    """Bytes of the cosines and sines of all positions, float32: a token reads one row of them."""
    return facts.max_positions * facts.head_dim * SCALE_BYTES
