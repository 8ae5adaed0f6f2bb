import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.scheme import Scheme, known_schemes, parse_scheme
from targets.errors import UsageError
from targets.legality import CHANNEL_WISE, LEGALITY, legal_schemes

SCHEMES = st.one_of(
    st.builds(Scheme, st.just(8), st.booleans()),
    st.builds(Scheme, st.just(4), st.booleans(), st.integers(1, 9999) | st.just(CHANNEL_WISE)),
)


@given(SCHEMES)
def test_a_scheme_is_its_name(scheme: Scheme) -> None:
    assert parse_scheme(scheme.name) == scheme


@pytest.mark.parametrize("name", known_schemes())
def test_a_name_is_its_scheme(name: str) -> None:
    scheme = parse_scheme(name)
    assert scheme.name == name
    assert scheme.precision == f"int{scheme.bits}"
    assert scheme.embedding == Scheme(8, scheme.symmetric)
    assert scheme.embedding.embedding == scheme.embedding


def test_the_known_schemes_are_those_that_devices_take() -> None:
    assert {"w8-sym", "w8-asym", "w4-sym-g64", "w4-asym-cw", "w4-asym-g128"} <= set(known_schemes())
    for table in LEGALITY:
        assert set(legal_schemes(table)) <= set(known_schemes())
    assert list(known_schemes()) == sorted(set(known_schemes()))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("w4-sym-64", "w4-sym-g64"),
        ("w4sym-cw", "w4-sym-cw"),
        ("w8-symm", "w8-sym"),
        ("W8-asym", "w8-asym"),
        ("w8-sym-cw", "w8-sym"),
    ],
)
def test_an_unknown_scheme_is_answered_with_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"unknown scheme '{name}'") as caught:
        parse_scheme(name)
    assert caught.value.help.startswith("did you mean 'w")
    assert meant in caught.value.help


def test_a_scheme_like_no_other_is_answered_with_all() -> None:
    with pytest.raises(UsageError) as caught:
        parse_scheme("float16")
    assert caught.value.help == f"Known: {', '.join(known_schemes())}"
