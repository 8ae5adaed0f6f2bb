"""Paired statistics against published figures, closed forms and simulation."""

import numpy as np
import pytest

from validate.paired import compare_paired, items_needed, mcnemar_exact, tango_bound

# assurance note, table of one-sided non-inferiority at alpha 0.05 and power 0.8.
NEEDED = {(0.03, 0.005): 7420, (0.05, 0.01): 3092, (0.10, 0.02): 1546, (0.15, 0.03): 1031, (0.05, 0.03): 344}


def answers(both: int, lost: int, gained: int, neither: int) -> tuple[list[bool], list[bool]]:
    reference = [True] * both + [True] * lost + [False] * gained + [False] * neither
    candidate = [True] * both + [False] * lost + [True] * gained + [False] * neither
    return reference, candidate


@pytest.mark.parametrize(("case", "items"), NEEDED.items())
def test_items_needed_are_the_tabled_ones(case: tuple[float, float], items: int) -> None:
    assert abs(items_needed(*case) - items) <= 1


def test_mcnemar_is_the_binomial_tail() -> None:
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(1, 9) == pytest.approx(2 * 11 / 1024)
    assert mcnemar_exact(9, 1) == mcnemar_exact(1, 9)
    assert mcnemar_exact(5, 5) == 1.0


def test_without_a_discordant_item_the_bound_is_the_closed_form() -> None:
    z = 1.6448536269514722
    assert tango_bound(0, 0, 300, 0.05) == pytest.approx(-(z**2) / (300 + z**2), abs=1e-9)


def test_the_bound_tends_to_the_normal_one() -> None:
    items, lost, gained = 200_000, 9_000, 8_000
    difference = (gained - lost) / items
    error = np.sqrt((lost + gained) / items - difference**2) / np.sqrt(items)
    assert tango_bound(lost, gained, items, 0.05) == pytest.approx(difference - 1.6449 * error, abs=1e-5)


def test_the_bound_covers_as_often_as_it_says() -> None:
    truth = (0.06, 0.03)  # lost, gained
    drawn = np.random.default_rng(1).multinomial(150, [*truth, 1 - sum(truth)], size=2000)
    covered = np.mean([tango_bound(int(row[0]), int(row[1]), 150, 0.05) <= truth[1] - truth[0] for row in drawn])
    assert 0.93 <= covered <= 0.975


def test_a_small_loss_on_few_items_is_not_shown_to_be_small() -> None:
    few = compare_paired(*answers(15, 2, 1, 2), margin=0.03)
    assert not few.non_inferior
    assert not few.enough
    assert few.needed > few.items
    many = compare_paired(*answers(1500, 20, 20, 460), margin=0.03)
    assert many.non_inferior
    assert many.enough


def test_counts_accuracies_and_interval() -> None:
    paired = compare_paired(*answers(50, 10, 4, 36), margin=0.05)
    assert (paired.items, paired.both, paired.only_reference, paired.only_candidate) == (100, 50, 10, 4)
    assert paired.reference_accuracy == 0.60
    assert paired.candidate_accuracy == 0.54
    assert paired.difference == pytest.approx(-0.06)
    assert paired.low < paired.difference < paired.high
    error = np.sqrt(0.14 - 0.06**2) / 10
    assert paired.high - paired.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_a_large_loss_is_found() -> None:
    paired = compare_paired(*answers(100, 40, 2, 20), margin=0.03)
    assert paired.p_value < 1e-6
    assert paired.high < 0
    assert not paired.non_inferior


def test_answers_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="pairs"):
        compare_paired([True], [True, False], 0.03)
    with pytest.raises(ValueError, match="pairs"):
        compare_paired([], [], 0.03)
