import pytest

from quantize.recipe import DistillPlan, GptqPlan, Recipe, parse_recipe, recipe_name
from targets.errors import UsageError

NAMES = (
    "w4-sym-g64",
    "w8-asym+clip",
    "w4-sym-cw+gptq",
    "w4-asym-g64+gptq+distill",
    "w4-asym-g64+keep20+gptq+distill",
    "w4-asym-g64+keep5",
    "w4-asym-g64+distill",
    "w4-sym-g64+awq",
    "w4-sym-cw+scale",
    "w4-sym-g64+keep5+awq+scale",
    "w4-asym-g64+awq+gptq+distill",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_says_what_is_done_and_is_its_only_spelling(name: str) -> None:
    recipe = parse_recipe(name)
    assert recipe_name(recipe) == name
    assert recipe.scheme == name.partition("+")[0] == recipe.format.name
    assert (recipe.tuning is not None) == name.endswith("distill")
    assert isinstance(recipe.rounding, GptqPlan) == ("gptq" in name)
    assert recipe.calibrated == any(step in name for step in ("keep", "awq", "scale", "gptq", "distill"))


def test_kept_weights_are_stored_like_the_embedding() -> None:
    recipe = parse_recipe("w4-sym-g64+keep20+gptq")
    assert recipe.keep == 20
    assert recipe.kept_scheme == recipe.format.embedding
    assert recipe.kept_scheme.name == "w8-sym"


@pytest.mark.parametrize(
    ("name", "what", "help_"),
    [
        ("w4-sym-g64+gtpq", "unknown step 'gtpq'", "did you mean 'gptq'"),
        ("w4-sym-g64+keep0", "unknown step 'keep0'", "Known: "),
        ("w4-sym-g64+keep100", "unknown step 'keep100'", "Known: "),
        ("w4-sym-g64+", "unknown step ''", "Known: "),
        ("w4-sym-64+gptq", "unknown scheme 'w4-sym-64'", "did you mean 'w4-sym-g64'"),
        ("w4-sym-g64+distill+gptq", "out of order", "write 'w4-sym-g64+gptq+distill'"),
        ("w4-sym-g64+clip+gptq", "out of order", "write 'w4-sym-g64+gptq'"),
        ("w4-sym-g64+keep10+keep20", "out of order", "write 'w4-sym-g64+keep20'"),
        ("w8-sym+keep10", "8-bit anyway", "write 'w8-sym'"),
        ("w8-asym+awq", "nothing to gain", "write 'w8-asym'"),
        ("w8-sym+scale", "nothing to gain", "'w8-sym+clip'"),
        ("w4-sym-g64+scale+awq", "out of order", "write 'w4-sym-g64+awq+scale'"),
        ("w4-sym-g64+lora", "no two runtimes would hold the same weights", "write 'gptq'"),
    ],
)
def test_anything_else_is_refused_with_what_to_write(name: str, what: str, help_: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_recipe(name)
    assert what in caught.value.what
    assert help_ in caught.value.help


def test_parameters_are_data() -> None:
    changed = Recipe("w4-sym-cw", rounding=GptqPlan(sequences=2), tuning=DistillPlan(steps=3))
    assert recipe_name(changed) == "w4-sym-cw+gptq+distill"
    assert changed != parse_recipe("w4-sym-cw+gptq+distill")
