"""Prompts on both sides of every boundary of a package's static shapes: what a stand-in says beside this CPU.

Faults of static shapes sit at their edges: a prompt that fills its shape, one token fewer, one more than a chunk, one
token after nothing but padding.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from validate.fidelity import log_softmax
from validate.measurement import BoundaryGap
from validate.runtime import Session

Progress = Callable[[int, int], None]


def boundary_lengths(longest_prompt: int, chunk: int) -> tuple[int, ...]:
    """Prompt lengths around the multiples of the prefill's chunk and at both ends of what it takes, ascending."""
    around = {1, 2, longest_prompt - 1, longest_prompt}
    for boundary in range(chunk, longest_prompt, chunk):
        around |= {boundary - 1, boundary, boundary + 1}
    return tuple(sorted(length for length in around if length > 0))


def measure_boundaries(
    reference: Session, device: Session, text: NDArray[np.int64], lengths: Sequence[int], progress: Progress
) -> tuple[BoundaryGap, ...]:
    """Each prompt as one prefill and one token after it, against `reference` on the same text.

    Args:
        reference: this CPU in float32; it gives every position.
        device: the stand-in as it ships; of a prompt it may give the last position alone.
        text: token ids [n]; lengths that it does not reach are left out.
        lengths: of the prompts, ascending.
        progress: called with (prompts done, prompts in all).
    """
    fitting = [length for length in lengths if length < len(text)]
    if not fitting:
        return ()
    reference.reset()
    ours = log_softmax(reference.step(text[: fitting[-1] + 1]))
    found = []
    for length in fitting:
        device.reset()
        prompt = log_softmax(device.step(text[:length])[-1:])[0]
        after = log_softmax(device.step(text[length : length + 1])[-1:])[0]
        found.append(
            BoundaryGap(
                prompt_tokens=length,
                kl_prompt=divergence(ours[length - 1], prompt),
                kl_decode=divergence(ours[length], after),
                agrees=bool(
                    ours[length - 1].argmax() == prompt.argmax() and ours[length].argmax() == after.argmax(),
                ),
            )
        )
        progress(len(found), len(fitting))
    return tuple(found)


def largest_kl(boundaries: Sequence[BoundaryGap]) -> float:
    """The largest KL of any of them, nats; NaN where one is."""
    return float(np.max([kl for each in boundaries for kl in (each.kl_prompt, each.kl_decode)]))


def divergence(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """KL(ours || theirs) of two log-probabilities [vocab], nats; NaN where theirs are."""
    return float((np.exp(ours, dtype=np.float64) * (ours - theirs)).sum())
