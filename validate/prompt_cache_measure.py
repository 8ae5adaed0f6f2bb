"""What a shipped prompt cache saves, and the proof that it changes nothing."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compile.package import Package
from targets.errors import DeviceMissing
from validate.fidelity import log_softmax
from validate.latency import sampled
from validate.measurement import Sampled
from validate.prompt_cache import STATE, Answering, PromptCache, find_loader, open_prompt_cache
from validate.runtime import DEPLOYED, Pipeline, Runtime, Session

Progress = Callable[[int, int], None]

WORDS = 32  # tokens of a user's request
ROUNDS = 5
NEW_TOKENS = 2
DECODED = 15  # tokens of them that are fed one at a time where logits are compared


@dataclass(frozen=True)
class CachedPrompt:
    """Requests behind a fixed prefix, with its state loaded and without.

    Attributes:
        tokens: of the prefix.
        words: tokens of the request after it.
        state_bytes: size of the shipped state.
        load_s: seconds to load the package with the state, ready for a request, its files cached.
        load_without_s: the same of the shipped pipeline.
        ttft_ms: time to first token with the state loaded, one sample a round.
        ttft_without_ms: of the shipped pipeline, prefix and request as one prompt, in the same rounds.
        ratio: the first median over the second.
        positions: whose logits were compared: the answer's first, and those after it, decoded one at a time.
        bit_equal: the logits are those that the same runtime gives after computing the prefix itself.
        largest_difference: of any of those logits.
        kl_mean: mean KL, nats, from the logits after prefix and request as one prompt: what the rounded KV cache costs
            every request that follows another, loaded or not.
        top1: share of positions where those two name the same most likely token.
    """

    tokens: int
    words: int
    state_bytes: int
    load_s: float
    load_without_s: float
    ttft_ms: Sampled
    ttft_without_ms: Sampled
    ratio: float
    positions: int
    bit_equal: bool
    largest_difference: float
    kl_mean: float
    top1: float


def measure_prompt_cache(
    runtime: Runtime, package: Package, cache: PromptCache, text: Sequence[int], progress: Progress
) -> CachedPrompt:
    """Time and compare requests behind the prefix.

    Args:
        runtime: of the package.
        package: as it ships.
        cache: its state; everything it is tied to is verified here as on a device.
        text: token ids that requests are taken from.
        progress: called with (steps done, steps in all).

    Raises:
        DeviceMissing: the runtime has no pipeline here, or is of another version.
        IntegrityError: the state belongs to another package, or is damaged.
    """
    cache = open_prompt_cache(cache.folder, package.folder, package.settings)
    words = [text[index % len(text)] for index in range(WORDS)]
    difference, bit_equal, kl, top1 = compare(runtime, package, cache, words)
    progress(1, 2)
    start = time.perf_counter()
    pipeline = runtime.pipeline(package.folder, package.settings)
    middle = time.perf_counter()
    cached = find_loader(cache.backend).cached_pipeline(package.folder, package.settings, cache.load())
    end = time.perf_counter()
    if pipeline is None:
        raise DeviceMissing(f"{package.backend} has no generation pipeline here", "measure it on the device")
    within, without = time_rounds(cached, pipeline, cache, words)
    progress(2, 2)
    return CachedPrompt(
        tokens=len(cache.tokens),
        words=len(words),
        state_bytes=(cache.folder / STATE).stat().st_size,
        load_s=end - middle,
        load_without_s=middle - start,
        ttft_ms=within,
        ttft_without_ms=without,
        ratio=within.median / without.median,
        positions=1 + DECODED,
        bit_equal=bit_equal,
        largest_difference=difference,
        kl_mean=kl,
        top1=top1,
    )


def time_rounds(
    cached: Answering, pipeline: Pipeline, cache: PromptCache, words: Sequence[int]
) -> tuple[Sampled, Sampled]:
    """Times to first token in milliseconds with the state and without, one after the other in every round."""
    with_state, without = [], []
    for number in range(ROUNDS + 1):
        first = cached.generate(words, NEW_TOKENS, stop=False)
        second = pipeline.generate([*cache.tokens, *words], NEW_TOKENS, stop=False)
        if number:  # the first round warms up
            with_state.append(1e3 * first.ttft_s)
            without.append(1e3 * second.ttft_s)
    return sampled(with_state), sampled(without)


def compare(
    runtime: Runtime, package: Package, cache: PromptCache, words: Sequence[int]
) -> tuple[float, bool, float, float]:
    """(largest difference, whether there is none, mean KL from one prompt, top-1 agreement) of the answer's logits."""
    request, prefix = words[:-DECODED], list(cache.tokens)
    after = [[token] for token in words[-DECODED:]]
    session = runtime.session(package.folder, package.settings, DEPLOYED)
    session.reset()
    session.step(np.array(prefix, np.int64))
    computed = last_logits(session, [request, *after])
    session.reset()
    whole = last_logits(session, [[*prefix, *request], *after])
    del session
    cached = find_loader(cache.backend).cached_session(package.folder, package.settings, cache.load())
    cached.reset()
    loaded = last_logits(cached, [request, *after])
    difference = float(np.abs(loaded - computed).max())
    return difference, bool(np.array_equal(loaded, computed)), *divergence(whole, loaded)


def last_logits(session: Session, pieces: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Logits [pieces, vocab] of the last position of each piece, fed one after the other."""
    return np.array([session.step(np.array(piece, np.int64))[-1] for piece in pieces])


def divergence(reference: NDArray[np.float32], other: NDArray[np.float32]) -> tuple[float, float]:
    """(mean KL in nats, top-1 agreement) of logits [n, vocab]."""
    ours, theirs = log_softmax(other), log_softmax(reference)
    kl = (np.exp(theirs) * (theirs - ours)).sum(-1).mean()
    return float(kl), float((reference.argmax(-1) == other.argmax(-1)).mean())
