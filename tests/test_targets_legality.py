import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.errors import UsageError
from targets.legality import (
    CHANNEL_WISE,
    LEGALITY,
    check,
    check_context,
    check_operators,
    check_recipe,
    legal_schemes,
    parse_scheme,
    precision_of,
    scheme_name,
)

BITS = (2, 4, 8, 16)
GROUPS = (CHANNEL_WISE, 0, 16, 32, 48, 64, 100, 128, 192, 256, 512)
COMBINATIONS = list(itertools.product(BITS, (True, False), GROUPS))
LANGUAGE_MODELS = sorted(name for name, table in LEGALITY.items() if table.refusal is None)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("w4-sym-g64", (4, True, 64)),
        ("w4-asym-g128", (4, False, 128)),
        ("w4-sym-cw", (4, True, CHANNEL_WISE)),
        ("w8-sym", (8, True, CHANNEL_WISE)),
        ("w8-asym", (8, False, CHANNEL_WISE)),
    ],
)
def test_names_follow_the_grammar_both_ways(name: str, plain: tuple[int, bool, int]) -> None:
    assert parse_scheme(name) == plain
    assert scheme_name(*plain) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "w4",
        "w4-sym",
        "w4-sym-g",
        "w4-sym-g0",
        "w4-sym-g064",
        "w8-sym-cw",
        "w2-sym-g64",
        "W4-sym-g64",
        "w4-sym-g64\n",
    ],
)
def test_names_outside_the_grammar_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not the name of a scheme"):
        parse_scheme(name)


@given(st.text(alphabet="w48-symacg0123456789", max_size=14))
def test_a_name_that_parses_is_the_one_spelling(name: str) -> None:
    try:
        plain = parse_scheme(name)
    except UsageError:
        return
    assert scheme_name(*plain) == name


def test_the_precision_class_is_the_width() -> None:
    assert (precision_of("w4-sym-cw"), precision_of("w8-asym")) == ("int4", "int8")


@pytest.mark.parametrize("legality", LANGUAGE_MODELS)
def test_each_combination_is_legal_or_refused_with_the_rule_and_the_nearest(legality: str) -> None:
    legal = set(legal_schemes(legality))
    table = LEGALITY[legality]
    for bits, symmetric, group_size in COMBINATIONS:
        name = scheme_name(bits, symmetric, group_size)
        if name in legal:
            check(bits, symmetric, group_size, legality)
            continue
        with pytest.raises(UsageError) as refused:
            check(bits, symmetric, group_size, legality)
        rule = (
            "weight_bits"
            if bits not in table.weight_bits
            else "symmetric"
            if symmetric not in table.symmetric
            else "group_sizes"
        )
        assert f"scheme {name} is not legal on {legality}: {rule} must be" in refused.value.what
        assert refused.value.help.split("'")[1] in legal


@pytest.mark.parametrize("legality", LANGUAGE_MODELS)
def test_legal_schemes_are_names_whose_plain_values_pass(legality: str) -> None:
    schemes = legal_schemes(legality)
    assert schemes
    assert len(set(schemes)) == len(schemes)
    for scheme in schemes:
        check(*parse_scheme(scheme), legality)


@pytest.mark.parametrize(
    ("scheme", "legality", "rule", "nearest"),
    [
        ("w4-asym-g64", "intel-npu-4000", "symmetric", "w4-sym-g128"),
        ("w4-sym-g64", "intel-npu-3720", "group_sizes", "w4-sym-g128"),
        ("w4-asym-cw", "intel-npu-5010", "symmetric", "w4-sym-cw"),
        ("w8-asym", "intel-npu-5010", "symmetric", "w8-sym"),
        ("w4-sym-g64", "amd-npu-xdna2", "symmetric", "w4-asym-g64"),
        ("w8-asym", "amd-npu-xdna2", "weight_bits", "w4-asym-g128"),
        ("w4-sym-g192", "onnxruntime-cpu", "group_sizes", "w4-sym-g256"),
        ("w4-asym-g128", "onnxruntime-webgpu", "group_sizes", "w4-asym-g32"),
        ("w4-sym-g16", "openvino-cpu", "group_sizes", "w4-sym-g32"),
    ],
)
def test_the_nearest_legal_scheme_keeps_what_it_can(scheme: str, legality: str, rule: str, nearest: str) -> None:
    with pytest.raises(UsageError) as refused:
        check(*parse_scheme(scheme), legality)
    assert f": {rule} must be" in refused.value.what
    assert f"nearest legal scheme is '{nearest}'" in refused.value.help


def test_grouped_8_bit_weights_are_refused_everywhere() -> None:
    with pytest.raises(UsageError, match="8-bit weights are channel-wise"):
        check(8, True, 64, "openvino-cpu")


def test_channel_wise_int4_is_legal_on_both_cpu_runtimes() -> None:
    for legality in ("openvino-cpu", "onnxruntime-cpu"):
        check(4, True, CHANNEL_WISE, legality)


def test_xdna1_takes_no_language_model() -> None:
    assert legal_schemes("amd-npu-xdna1") == ()
    with pytest.raises(UsageError, match="no language model"):
        check(8, True, CHANNEL_WISE, "amd-npu-xdna1")


def test_an_unknown_table_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError) as refused:
        check(4, True, 64, "intel-npu-3700")
    assert "did you mean 'intel-npu-3720'" in refused.value.help


def test_every_restriction_has_a_reason() -> None:
    for name in LANGUAGE_MODELS:
        table = LEGALITY[name]
        assert "weight_bits" in table.reasons, name
        assert "group_sizes" in table.reasons, name
        assert ("symmetric" in table.reasons) == (len(table.symmetric) == 1), name


def test_context_is_bounded_where_the_device_bounds_it() -> None:
    check_context(8192, "intel-npu-4000")
    check_context(10**6, "openvino-cpu")
    with pytest.raises(UsageError, match="8193 tokens"):
        check_context(8193, "intel-npu-4000")


def test_refused_operators_are_all_named() -> None:
    operators = ["MatMul", "Pow", "com.microsoft::GroupQueryAttention"]
    check_operators(operators, "onnxruntime-cpu")
    check_operators(["MatMul", "RMSNormalization"], "qualcomm-htp-v73")
    with pytest.raises(UsageError, match=r"Pow \(.*; com\.microsoft::GroupQueryAttention \("):
        check_operators(operators, "qualcomm-htp-v73")


@pytest.mark.parametrize("recipe", ["w4-sym-cw+gptq+distill", "w4-sym-g128"])
def test_the_steps_of_a_recipe_are_no_matter_of_legality(recipe: str) -> None:
    check_recipe(recipe, "intel-npu-4000")
    assert precision_of(recipe) == "int4"


def test_a_recipe_that_keeps_8_bit_weights_is_refused_where_there_are_none() -> None:
    check_recipe("w4-sym-cw+keep20+gptq", "openvino-cpu")
    with pytest.raises(UsageError, match="keeps weights in 8 bits") as caught:
        check_recipe("w4-sym-cw+keep20+gptq", "intel-npu-4000")
    assert "'w4-sym-cw+gptq'" in caught.value.help


def test_a_recipe_of_an_illegal_scheme_is_refused() -> None:
    with pytest.raises(UsageError, match="scheme w4-sym-g64 is not legal"):
        check_recipe("w4-sym-g64+gptq", "intel-npu-4000")
