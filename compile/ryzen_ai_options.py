"""What a target says of a Ryzen AI package, checked before any work; loads nothing."""

from collections.abc import Mapping

from compile.options import refuse_options
from targets.errors import UsageError
from targets.legality import parse_scheme, scheme_of
from targets.names import choose

OURS, LOADED, AWQ = "none", "load", "awq"

# Values of the option `quark`; the first is the default.
QUARK = {
    OURS: "our numbers, and AMD Quark is not asked",
    LOADED: "our numbers, which AMD Quark has to read as we do",
    AWQ: "AMD Quark's own numbers: its AWQ on our calibration tokens",
}

# In what a package requires: who chose its weights, where that was not the stage `quantize`.
CHOSEN_BY = "weights_chosen_by"

# Input channels that share a scale in Quark's schemes `uint4_wo_<group size>`.
GROUP_SIZES = (128, 64, 32)


def quark_option(options: Mapping[str, str | int]) -> str:
    """What AMD Quark is to do: a name of `QUARK`.

    Raises:
        UsageError: an unknown option, or another value of it.
    """
    refuse_options(options, ("quark",), "ryzen-ai")
    asked = str(options.get("quark", OURS))
    choose(asked, QUARK, "value of the option quark")
    return asked


def check_options(options: Mapping[str, str | int], recipe: str) -> None:
    """Refuse what the back end would refuse, without doing any work.

    Raises:
        UsageError: as `quark_option`, or a recipe that Quark's AWQ would not follow.
    """
    if quark_option(options) == AWQ:
        quark_scheme(recipe)


def quark_scheme(recipe: str) -> str:
    """Quark's name of the scheme that a recipe names: `uint4_wo_64` for `w4-asym-g64`.

    Raises:
        UsageError: Quark has no such scheme, or the recipe is more than one: AWQ would choose other numbers than it.
    """
    if scheme_of(recipe) != recipe:
        raise UsageError(
            f'the recipe {recipe} chooses numbers itself, and quark = "{AWQ}" has AMD Quark choose them',
            f"name the scheme alone, {scheme_of(recipe)}, or leave the option out",
        )
    bits, symmetric, group = parse_scheme(recipe)
    if (bits, symmetric) != (4, False) or group not in GROUP_SIZES:
        raise UsageError(
            f"AMD Quark has no scheme for {recipe}: its uint4 ones have a zero point and groups of 128, 64 or 32",
            "choose w4-asym-g128, w4-asym-g64 or w4-asym-g32",
        )
    return f"uint4_wo_{group}"


def needs(options: Mapping[str, str | int]) -> tuple[str, ...]:
    """Inputs of the package beside the quantized hub: the float model and its calibration tokens, or none."""
    return ("model", "calibration") if quark_option(options) == AWQ else ()
