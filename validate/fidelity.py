"""Fidelity figures: pure functions on log-probabilities."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validate.measurement import Fidelity, WindowFidelity
from validate.resampling import mean_interval

Floats = NDArray[np.float32]

ROWS = 32  # positions worked on at a time: what lies between logits and figures is several times the logits' size


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)), dtype=np.float32)


@dataclass(frozen=True)
class Reference:
    """The float model's next-token distributions on one window, in a compact form.

    A distribution over a vocabulary of 49,152 is kept as its `top` most likely tokens and a systematic sample of the
    rest, drawn by probability. That gives an unbiased estimate of the KL divergence: a sum over the top, and the tail's
    mass times the mean log-ratio of the sample (importance sampling with the reference as proposal). Lumping the tail
    into one bucket instead would read 7 % low at 256 tokens kept.

    Attributes:
        ids: [positions, kept] the tokens kept: first the top, then the sample.
        log_probs: [positions, kept] float32, their log-probabilities.
        tail_mass: [positions] float32, probability of everything outside the top.
        targets: [positions] the token that follows in the text; -1 where the window ends.
        target_log_probs: [positions] float32, its log-probability.
        top: how many of `kept` are the top.
    """

    ids: NDArray[np.int64]
    log_probs: Floats
    tail_mass: Floats
    targets: NDArray[np.int64]
    target_log_probs: Floats
    top: int

    def part(self, start: int, stop: int) -> "Reference":
        """The reference of the window's positions from `start` to before `stop`."""
        return Reference(
            ids=self.ids[start:stop],
            log_probs=self.log_probs[start:stop],
            tail_mass=self.tail_mass[start:stop],
            targets=self.targets[start:stop],
            target_log_probs=self.target_log_probs[start:stop],
            top=self.top,
        )

    @classmethod
    def join(cls, parts: Sequence["Reference"]) -> "Reference":
        """The reference of consecutive positions, all with the same `top`."""
        return cls(
            ids=np.concatenate([part.ids for part in parts]),
            log_probs=np.concatenate([part.log_probs for part in parts]),
            tail_mass=np.concatenate([part.tail_mass for part in parts]),
            targets=np.concatenate([part.targets for part in parts]),
            target_log_probs=np.concatenate([part.target_log_probs for part in parts]),
            top=parts[0].top,
        )


def compact(logits: Floats, targets: NDArray[np.int64], top: int, sampled: int, rng: np.random.Generator) -> Reference:
    """Keep `top` tokens and a sample of `sampled` from the tail of each row of logits [positions, vocab].

    Args:
        logits: of the token after each position.
        targets: [positions] the token that follows in the text; -1 where it ends.
        top: tokens kept exactly.
        sampled: tokens drawn from the rest, with replacement, by systematic sampling.
        rng: gives one offset a position.
    """
    parts = [slice(start, start + ROWS) for start in range(0, len(logits), ROWS)]
    return Reference.join([compact_rows(log_softmax(logits[part]), targets[part], top, sampled, rng) for part in parts])


def compact_rows(
    log_probs: Floats, targets: NDArray[np.int64], top: int, sampled: int, rng: np.random.Generator
) -> Reference:
    """`compact` for log-probabilities of so few positions that several arrays of their size may be held."""
    order = np.argpartition(-log_probs, top, axis=-1)[:, :top]
    order = np.take_along_axis(order, np.argsort(-np.take_along_axis(log_probs, order, -1), axis=-1), -1)
    probabilities = np.exp(log_probs.astype(np.float64))
    np.put_along_axis(probabilities, order, 0.0, axis=-1)
    cumulative = probabilities.cumsum(axis=-1)
    tail_mass = cumulative[:, -1]
    marks = (np.arange(sampled) + rng.random((len(log_probs), 1))) / sampled * tail_mass[:, None]
    drawn = np.stack([np.searchsorted(row, mark, side="right") for row, mark in zip(cumulative, marks, strict=True)])
    ids = np.concatenate([order, np.minimum(drawn, log_probs.shape[1] - 1)], axis=-1)
    return Reference(
        ids=ids,
        log_probs=np.take_along_axis(log_probs, ids, -1),
        tail_mass=tail_mass.astype(np.float32),
        targets=targets,
        target_log_probs=np.take_along_axis(log_probs, np.maximum(targets, 0)[:, None], -1)[:, 0],
        top=top,
    )


def divergence(reference: Reference, kept: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(reference || package) at each position, nats, as `Reference` says.

    Args:
        reference: of one window.
        kept: [positions, kept] the package's log-probabilities of `reference.ids`.
    """
    ratio = reference.log_probs - kept
    top = (np.exp(reference.log_probs[:, : reference.top], dtype=np.float64) * ratio[:, : reference.top]).sum(axis=-1)
    return np.asarray(top + reference.tail_mass * ratio[:, reference.top :].mean(axis=-1))


def log_normaliser(logits: Floats) -> NDArray[np.float64]:
    """[positions]: log of the sum of exp(logits) over the vocabulary."""
    largest = logits.max(axis=-1)
    total = np.empty(len(logits))
    for start in range(0, len(logits), ROWS):
        rows = slice(start, start + ROWS)
        total[rows] = np.exp(logits[rows] - largest[rows, None]).sum(axis=-1, dtype=np.float64)
    return np.asarray(largest + np.log(total))


@dataclass(frozen=True)
class WindowScore:
    """One window compared.

    Attributes:
        kl: [positions], nats.
        agrees: [positions], both name the same most likely token.
        loss: [targets] negative log-probability of the text by the package.
        reference_loss: the same by the float model.
        prefill: positions that were computed in one prefill; the rest came one at a time.
    """

    kl: NDArray[np.float64]
    agrees: NDArray[np.bool_]
    loss: NDArray[np.float64]
    reference_loss: Floats
    prefill: int


def score_window(reference: Reference, logits: Floats, prefill: int) -> WindowScore:
    """Compare logits [positions, vocab] with the reference of the same window."""
    normaliser = log_normaliser(logits)  # log-probabilities of what is kept, without those of the whole vocabulary
    known = reference.targets >= 0
    theirs = np.take_along_axis(logits, np.maximum(reference.targets, 0)[:, None], -1)[:, 0] - normaliser
    return WindowScore(
        kl=divergence(reference, np.take_along_axis(logits, reference.ids, -1) - normaliser[:, None]),
        agrees=logits.argmax(axis=-1) == reference.ids[:, 0],
        loss=-theirs[known],
        reference_loss=-reference.target_log_probs[known],
        prefill=prefill,
    )


def summarise(scores: Iterable[WindowScore]) -> Fidelity:
    """Pool windows; the interval resamples whole windows, since positions of one text are not independent."""
    windows = list(scores)
    kl = np.concatenate([window.kl for window in windows])
    loss = float(np.concatenate([window.loss for window in windows]).mean(dtype=np.float64))
    reference_loss = float(np.concatenate([window.reference_loss for window in windows]).mean(dtype=np.float64))
    low, high = mean_interval([window.kl.mean() for window in windows])
    decode = np.concatenate([window.kl[window.prefill :] for window in windows])
    return Fidelity(
        kl_mean=float(kl.mean()),
        kl_low=low,
        kl_high=high,
        kl_p99=float(np.percentile(kl, 99)),
        kl_prefill=float(np.concatenate([window.kl[: window.prefill] for window in windows]).mean()),
        kl_decode=float(decode.mean()) if decode.size else None,
        top1=float(np.concatenate([window.agrees for window in windows]).mean()),
        perplexity=float(np.exp(loss)),
        perplexity_ratio=float(np.exp(loss - reference_loss)),
        positions=len(kl),
        windows=tuple(
            WindowFidelity(len(window.kl), float(window.kl.mean()), float(window.agrees.mean())) for window in windows
        ),
    )
