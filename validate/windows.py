"""Feed the golden windows to a session and compare what it says with the float model."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from validate.fidelity import WindowScore, score_window, summarise
from validate.golden import Golden
from validate.measurement import Fidelity
from validate.runtime import Coverage, Session

Progress = Callable[[int, int], None]

STEP = 256  # tokens of a context read at a time: the logits of a long one take several times the package's memory


def weights_coverage(golden: Golden) -> Coverage:
    """Of the weights alone: a few windows, each in one prefill, since float32 kernels are slow and runtimes agree."""
    return Coverage(golden.plan.weights_windows, golden.plan.window_tokens, 0)


def deployed_coverage(golden: Golden) -> Coverage:
    """As it ships: most of each window as one prefill and its end token by token, as a product would."""
    decode = golden.plan.decode_tokens
    return Coverage(golden.plan.windows, golden.plan.window_tokens - decode, decode)


def measure_fidelity(session: Session, golden: Golden, coverage: Coverage, progress: Progress) -> Fidelity:
    """Feed what `coverage` says of the golden windows and pool the distances from the float model."""
    scores: list[WindowScore] = []
    for tokens, reference in golden.windows()[: coverage.windows]:
        logits = feed(session, tokens[: coverage.tokens], coverage.prefill)
        scores.append(score_window(reference.part(0, coverage.tokens), logits, coverage.prefill))
        progress(len(scores), coverage.windows)
    return summarise(scores)


def feed(session: Session, tokens: NDArray[np.int64], prefill: int) -> NDArray[np.float32]:
    """Logits [n, vocab] of tokens [n] as a new sequence: the first `prefill` at once, the others one at a time."""
    session.reset()
    logits = [session.step(tokens[:prefill])]
    logits += [session.step(tokens[index : index + 1]) for index in range(prefill, len(tokens))]
    return np.concatenate(logits)


def read(session: Session, tokens: NDArray[np.int64]) -> None:
    """Continue the sequence with tokens [n] whose logits nobody asks for."""
    for start in range(0, len(tokens), STEP):
        session.step(tokens[start : start + STEP])
