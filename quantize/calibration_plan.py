"""How much text calibrated recipes look at: part of the key of their weights, and so free of all that computes them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CalibrationPlan:
    """How much text, and how it is sampled. Part of the key of every weight that descends from it.

    Attributes:
        sequences: how many.
        tokens: length of each.
        temperature: of sampling; at 1 a small model writes wilder than people do.
        seed: of sampling.
    """

    sequences: int = 56
    tokens: int = 256
    temperature: float = 0.8
    seed: int = 20261122
