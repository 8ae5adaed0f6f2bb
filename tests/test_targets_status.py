from hypothesis import given
from hypothesis import strategies as st

from targets.status import Status, Verdict, combine

VERDICTS = st.lists(st.sampled_from(list(Verdict)))


def test_the_vocabulary_is_the_one_of_the_design() -> None:
    assert [str(status) for status in Status] == [
        "measured",
        "host-measured",
        "simulated",
        "emulated",
        "compiled",
        "prepared",
    ]
    assert [str(verdict) for verdict in Verdict] == ["PASS", "FAIL", "INCOMPLETE"]


def test_nothing_judged_is_incomplete() -> None:
    assert combine([]) is Verdict.INCOMPLETE


@given(VERDICTS)
def test_one_failure_fails_the_whole(verdicts: list[Verdict]) -> None:
    assert combine([*verdicts, Verdict.FAIL]) is Verdict.FAIL


@given(VERDICTS)
def test_a_pass_needs_every_one_to_pass(verdicts: list[Verdict]) -> None:
    passed = bool(verdicts) and all(verdict is Verdict.PASS for verdict in verdicts)
    assert (combine(iter(verdicts)) is Verdict.PASS) == passed


@given(VERDICTS, VERDICTS)
def test_combining_by_parts_changes_nothing(one: list[Verdict], other: list[Verdict]) -> None:
    parts = [combine(part) for part in (one, other) if part]
    assert combine(parts) is combine([*one, *other])
