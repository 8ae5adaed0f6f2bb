import math
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from targets.errors import UsageError
from targets.gates import BOUNDS, FieldError, Gates, Limits

GATES = Gates(kl_mean_max=0.01, top1_min=0.94, perplexity_ratio_max=1.02, runtime_kl_gap_max=0.002)


def replaced(name: str, figure: float) -> Gates:
    figures: dict[str, Any] = {name: figure}
    return replace(GATES, **figures)


def test_every_figure_has_bounds() -> None:
    assert set(BOUNDS) == {field.name for field in fields(Gates)}


@pytest.mark.parametrize("name", sorted(set(BOUNDS) - {"ttft_ms_max"}))
@pytest.mark.parametrize("side", ["below", "above", "nan", "inf"])
def test_a_figure_outside_its_bounds_is_refused_by_name(name: str, side: str) -> None:
    low, high = BOUNDS[name]
    figure = {"below": low - 1, "above": high + 1, "nan": math.nan, "inf": math.inf}[side]
    with pytest.raises(UsageError, match=f"^{name} = "):
        replaced(name, figure)


@pytest.mark.parametrize("name", sorted(set(BOUNDS) - {"ttft_ms_max", "kl_mean_max", "kl_p99_max"}))
def test_both_ends_of_the_bounds_are_inside(name: str) -> None:
    for end in BOUNDS[name]:
        assert getattr(replaced(name, end), name) == end


def test_percent_instead_of_a_share_is_refused_with_help() -> None:
    with pytest.raises(UsageError) as refused:
        replace(GATES, top1_min=94.0)
    assert "not in percent" in refused.value.help


@pytest.mark.parametrize("ttft", [{}, {0: 100.0}, {-1: 100.0}, {32: 0.0}, {32: 100.0, 128: math.nan}])
def test_unusable_time_limits_are_refused(ttft: dict[int, float]) -> None:
    with pytest.raises(UsageError, match="ttft_ms_max"):
        Limits(ttft_ms_max=ttft)


def test_the_tail_gate_is_not_tighter_than_the_mean() -> None:
    assert replace(GATES, kl_p99_max=0.01).kl_p99_max == 0.01
    with pytest.raises(UsageError, match="kl_p99_max"):
        replace(GATES, kl_p99_max=0.009)


def test_product_limits_fill_only_what_the_gates_leave_open() -> None:
    own = replace(GATES, package_mb_max=100.0)
    merged = own.within(Limits(package_mb_max=500.0, load_s_max=5.0))
    assert (merged.package_mb_max, merged.load_s_max, merged.peak_memory_mb_max) == (100.0, 5.0, None)
    assert merged.kl_mean_max == own.kl_mean_max
    assert merged.within(Limits(load_s_max=9.0)) == merged


def test_gates_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        GATES.top1_min = 0.0  # type: ignore[misc]


def test_the_error_crosses_processes_and_keeps_its_exit_code() -> None:
    error = pickle.loads(pickle.dumps(FieldError("what", "help")))  # noqa: S301 - our own bytes
    assert (error.what, error.help, error.exit_code) == ("what", "help", 2)
