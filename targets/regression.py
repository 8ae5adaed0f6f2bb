"""How much worse than the last release a package may be."""

from dataclasses import dataclass, fields

from targets.gates import FieldError

RATIO = (1.0, 100.0)
BOUNDS: dict[str, tuple[float, float]] = {
    "kl_ratio_max": RATIO,
    "top1_loss_max": (0.0, 1.0),
    "ttft_ratio_max": RATIO,
    "tpot_ratio_max": RATIO,
    "memory_ratio_max": RATIO,
    "size_ratio_max": RATIO,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Regression:
    """Bounds on what changed since a baseline. None: no such bound.

    Attributes:
        kl_ratio_max: mean KL from the float model, new over old.
        top1_loss_max: share of positions, 0 to 1, by which top-1 agreement may fall.
        ttft_ratio_max: time to first token, new over old, at each prompt length.
        tpot_ratio_max: time per output token, new over old, at each prompt length.
        memory_ratio_max: peak memory, new over old.
        size_ratio_max: package on disk, new over old.

    Raises:
        FieldError: a figure outside its `BOUNDS`.
    """

    kl_ratio_max: float | None = 1.10
    top1_loss_max: float | None = 0.01
    ttft_ratio_max: float | None = 1.10
    tpot_ratio_max: float | None = 1.10
    memory_ratio_max: float | None = 1.10
    size_ratio_max: float | None = 1.05

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            low, high = BOUNDS[field.name]
            if value is not None and not low <= value <= high:
                raise FieldError(
                    f"{field.name} = {value} is outside {low:g} to {high:g}",
                    "ratios are new over old, 1.1 allowing 10 % more; shares are given from 0 to 1",
                )
