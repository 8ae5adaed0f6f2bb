"""Sessions that can step back: a long prompt is read once, and what follows it is tried again and again."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from export.parity import HubSession
from validate.windows import read


class Stepping(Protocol):
    """One sequence, fed by token ids, giving logits."""

    def reset(self) -> None:
        """Forget the sequence."""
        ...

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits [n, vocab] of the next n tokens [n]."""
        ...


@runtime_checkable
class Rewindable(Protocol):
    """A session that forgets the end of its sequence."""

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        ...


class HubStepping:
    """The float hub, as validation steps it."""

    def __init__(self, hub: HubSession) -> None:
        self.hub = hub

    def reset(self) -> None:
        """Forget the sequence."""
        self.hub.reset()

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self.hub.past = {name: value[:, :, :length] for name, value in self.hub.past.items()}
        self.hub.length = length

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits [n, vocab] of the next n tokens [n]."""
        logits: NDArray[np.float32] = self.hub.step(tokens[None])[0]
        return logits


def as_ids(tokens: Sequence[int]) -> NDArray[np.int64]:
    """Token ids as sessions take them."""
    return np.array(list(tokens), dtype=np.int64)


def common_beginning(sequences: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that all sequences begin with."""
    least, most = min(map(list, sequences)), max(map(list, sequences))
    same = 0
    while same < min(len(least), len(most)) and least[same] == most[same]:
        same += 1
    return least[:same]


def log_likelihoods(logits: NDArray[np.float32], targets: Sequence[int]) -> NDArray[np.float64]:
    """Natural log of the probability that each row of logits [n, vocab] gives its target [n]."""
    rows = logits.astype(np.float64)
    highest = rows.max(axis=1)
    totals = highest + np.log(np.exp(rows - highest[:, None]).sum(axis=1))
    chosen: NDArray[np.float64] = rows[np.arange(len(targets)), np.array(targets)] - totals
    return chosen


class Branches:
    """A session over sequences that share their beginning.

    A runtime that cannot step back reads the beginning again, which is slow and gives the same.
    """

    def __init__(self, session: Stepping, refresh: int) -> None:
        """Use `session`; after `refresh` returns to a beginning it is reset.

        A session may keep what it forgot, masked, in its cache.
        """
        self.session, self.refresh = session, refresh
        self.fed: list[int] = []
        self.returns = 0

    def start(self, shared: Sequence[int]) -> None:
        """Continue after `shared`, reading no more of it than what is not there."""
        beginning = list(shared)
        self.returns += 1
        if self.fed[: len(beginning)] != beginning or self.returns % self.refresh == 0:
            self.session.reset()
            read(self.session, as_ids(beginning))
            self.fed = beginning
        else:
            self.back(len(beginning))

    def restart(self) -> None:
        """Forget everything."""
        self.session.reset()
        self.fed = []

    def back(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        if length == len(self.fed):
            return
        self.fed = self.fed[:length]
        if isinstance(self.session, Rewindable):
            self.session.rewind(length)
        else:
            self.session.reset()
            read(self.session, as_ids(self.fed))

    def step(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Logits [n, vocab] of the next n tokens."""
        self.fed += tokens
        return self.session.step(as_ids(tokens))
