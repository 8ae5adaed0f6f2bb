"""What a device's weights and graph may look like, as data, checked before any work.

A scheme's name is `w<bits>-<sym|asym>[-<group>]`: weights of 4 or 8 bits; symmetric (no zero point) or asymmetric;
then, for 4 bits, how many weights along the reduction axis share a scale: `g64` is 64 of them, `cw` the whole channel.
8-bit weights are always channel-wise, so `w8-sym` has no third part.

A recipe's name (`quantize.recipe`) is a scheme's name and the steps that choose the numbers in it, as in
`w4-sym-g64+keep20+gptq`. Only one step matters to a device: `keep`, which stores some of the weights in 8 bits.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from targets.errors import UsageError
from targets.names import choose

CHANNEL_WISE = -1
PRECISIONS = ("int4", "int8")

_SCHEME = re.compile(r"w(4|8)-(sym|asym)(?:-(cw|g[1-9][0-9]{0,3}))?", re.ASCII)
_KEEP = re.compile(r"\+keep[0-9]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Legality:
    """What one device takes through one runtime.

    Attributes:
        weight_bits: widths of a weight, in bits.
        symmetric: True where weights without a zero point are taken, False where those with one are.
        group_sizes: how many 4-bit weights may share a scale; `CHANNEL_WISE` is all of a channel.
        reasons: why each restricted field above is restricted, keyed by the field's name.
        mixed_widths: whether weights of 4 and of 8 bits may stand in one decoder.
        static_shapes: whether the device runs fixed shapes only, so that prompt and context lengths are chosen ahead.
        max_context: most tokens of prompt and answer together, or None where no limit is known.
        refused_operators: operators that must not reach the device, each with the reason; `domain::type`, or `type`
            alone for a standard ONNX operator.
        refusal: why the device takes no language model at all, or None.
    """

    weight_bits: tuple[int, ...]
    symmetric: tuple[bool, ...]
    group_sizes: tuple[int, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)
    mixed_widths: bool = True
    static_shapes: bool = False
    max_context: int | None = None
    refused_operators: Mapping[str, str] = field(default_factory=dict)
    refusal: str | None = None


_ANY_SYMMETRY = (True, False)
_NO_OTHER_WIDTH = "4- and 8-bit weights are what this release quantizes to"
# MatMulNBits wants a power of two; our ONNX Runtime back end writes a channel's one scale into each of its blocks.
_BLOCKS = (16, 32, 64, 128, 256, CHANNEL_WISE)
_BLOCK_REASON = "MatMulNBits takes blocks of a power of two from 16 to 256"

_INTEL_NPU = Legality(
    weight_bits=(4, 8),
    symmetric=(True,),
    group_sizes=(128, CHANNEL_WISE),
    reasons={
        "weight_bits": "OpenVINO documents 4-bit weights; its compiler takes channel-wise 8-bit ones too",
        "symmetric": "the NPU compiler wants weights without a zero point (optimum-cli --sym)",
        "mixed_widths": "OpenVINO asks for every weight at one width (optimum-cli --ratio 1.0)",
        "group_sizes": "the NPU compiler wants one scale per 128 weights or per channel; group 64 doubles the blob",
    },
    mixed_widths=False,
    static_shapes=True,
    max_context=8192,
)

_HTP = Legality(
    weight_bits=(4, 8),
    symmetric=_ANY_SYMMETRY,
    group_sizes=_BLOCKS,
    reasons={"weight_bits": _NO_OTHER_WIDTH, "group_sizes": _BLOCK_REASON},
    static_shapes=True,
    refused_operators={
        "com.microsoft::GroupQueryAttention": "the QNN EP leaves it on the CPU and says nothing",
        "Pow": "a decomposed RMSNorm overflows float16; write RMSNormalization",
        "ReduceMean": "a decomposed RMSNorm overflows float16; write RMSNormalization",
    },
)

LEGALITY: dict[str, Legality] = {
    "null": Legality((4, 8), _ANY_SYMMETRY, _BLOCKS, {"weight_bits": _NO_OTHER_WIDTH, "group_sizes": _BLOCK_REASON}),
    "openvino-cpu": Legality(
        weight_bits=(4, 8),
        symmetric=_ANY_SYMMETRY,
        group_sizes=(32, 64, 128, 192, 256, CHANNEL_WISE),
        reasons={
            "weight_bits": _NO_OTHER_WIDTH,
            "group_sizes": "these groups have been seen to become compressed FullyConnected",
        },
    ),
    "onnxruntime-cpu": Legality(
        weight_bits=(4, 8),
        symmetric=_ANY_SYMMETRY,
        group_sizes=_BLOCKS,
        reasons={"weight_bits": _NO_OTHER_WIDTH, "group_sizes": _BLOCK_REASON},
    ),
    "openvino-gpu": Legality(
        weight_bits=(4, 8),
        symmetric=_ANY_SYMMETRY,
        group_sizes=(32, 64, 128, CHANNEL_WISE),
        reasons={
            "weight_bits": _NO_OTHER_WIDTH,
            "group_sizes": "the GPU plugin's published models use these groups",
        },
    ),
    "onnxruntime-webgpu": Legality(
        weight_bits=(4, 8),
        symmetric=_ANY_SYMMETRY,
        group_sizes=(32, CHANNEL_WISE),
        reasons={
            "weight_bits": _NO_OTHER_WIDTH,
            "group_sizes": "4-bit blocks of 32 and 8-bit channels in blocks are known to run on the WebGPU EP",
        },
    ),
    "intel-npu-3720": _INTEL_NPU,
    "intel-npu-4000": _INTEL_NPU,
    "intel-npu-5010": _INTEL_NPU,
    "amd-npu-xdna2": Legality(
        weight_bits=(4,),
        symmetric=(False,),
        group_sizes=(32, 64, 128),
        reasons={
            "weight_bits": "Ryzen AI runs language models as Quark uint4 checkpoints",
            "symmetric": "Quark's uint4 schemes carry a zero point",
            "group_sizes": "Quark's uint4_wo schemes exist for 32, 64 and 128, one size for every matrix",
        },
        static_shapes=True,
        max_context=16384,
    ),
    "amd-npu-xdna1": Legality(
        weight_bits=(),
        symmetric=(),
        group_sizes=(),
        static_shapes=True,
        refusal="XDNA1 (Phoenix, Hawk Point) runs convolutional networks in INT8 only, no language model",
    ),
    # Beside 16-bit activations (the option `activations` of the back end qnn), on any Hexagon.
    "qualcomm-htp-uint16": replace(
        _HTP,
        symmetric=(True,),
        reasons={**_HTP.reasons, "symmetric": "beside 16-bit activations the HTP misreads zero points of blocks"},
    ),
    "qualcomm-htp-v73": _HTP,
    "qualcomm-htp-v75": _HTP,
    "qualcomm-htp-v81": _HTP,
}


def scheme_name(bits: int, symmetric: bool, group_size: int) -> str:
    """The name of a scheme, as the grammar above spells it."""
    stem = f"w{bits}-{'sym' if symmetric else 'asym'}"
    if group_size != CHANNEL_WISE:
        return f"{stem}-g{group_size}"
    return stem if bits == 8 else f"{stem}-cw"


def parse_scheme(name: str) -> tuple[int, bool, int]:
    """Bits, symmetric and group size (`CHANNEL_WISE` for a channel) of a scheme's name.

    Raises:
        UsageError: not a name of the grammar, or not the one spelling it has.
    """
    found = _SCHEME.fullmatch(name)
    if found:
        group = found[3]
        group_size = int(group[1:]) if group and group != "cw" else CHANNEL_WISE
        parsed = int(found[1]), found[2] == "sym", group_size
        if scheme_name(*parsed) == name:
            return parsed
    raise UsageError(f"'{name}' is not the name of a scheme", "write one such as w4-sym-g64, w4-asym-cw, w8-sym")


def scheme_of(recipe: str) -> str:
    """The scheme in the name of a recipe: what is in front of its first step."""
    return recipe.partition("+")[0]


def precision_of(recipe: str) -> str:
    """The precision class of a recipe's or scheme's name, `int4` or `int8`: the key of its gates.

    Raises:
        UsageError: not a scheme's name.
    """
    return f"int{parse_scheme(scheme_of(recipe))[0]}"


def check_recipe(recipe: str, legality: str) -> None:
    """Refuse a recipe whose weights the device of the legality table `legality` does not take.

    Raises:
        UsageError: as `check`, or the recipe keeps weights in 8 bits where the device takes none.
    """
    bits, symmetric, group_size = parse_scheme(scheme_of(recipe))
    check(bits, symmetric, group_size, legality)
    table = LEGALITY[legality]
    if _KEEP.search(recipe) and not (8 in table.weight_bits and table.mixed_widths):
        rule = "weight_bits" if table.mixed_widths else "mixed_widths"
        raise UsageError(
            f"recipe {recipe} is not legal on {legality}: it keeps weights in 8 bits; {table.reasons[rule]}",
            f"write it without that step: '{_KEEP.sub('', recipe)}'",
        )


def legal_schemes(legality: str) -> tuple[str, ...]:
    """The names of all schemes the device of that legality table takes, fewest bits first.

    Raises:
        UsageError: no such table.
    """
    return tuple(scheme_name(*plain) for plain in _legal(choose(legality, LEGALITY, "legality table")))


def check(bits: int, symmetric: bool, group_size: int, legality: str) -> None:
    """Refuse weights that the device of the legality table `legality` does not take.

    Raises:
        UsageError: no such table, or an illegal scheme; names the rule it breaks and the nearest legal scheme.
    """
    table = choose(legality, LEGALITY, "legality table")
    if table.refusal:
        raise UsageError(f"{legality} takes no scheme: {table.refusal}", "build for another device of the product")
    rule = _broken_rule(table, bits, symmetric, group_size)
    if rule:
        name = scheme_name(bits, symmetric, group_size)
        legal = _legal(table)
        close = scheme_name(*min(legal, key=lambda other: _distance(other, (bits, symmetric, group_size))))
        every = ", ".join(scheme_name(*plain) for plain in legal)
        raise UsageError(
            f"scheme {name} is not legal on {legality}: {rule}",
            f"the nearest legal scheme is '{close}'. Legal: {every}",
        )


def check_context(tokens: int, legality: str) -> None:
    """Refuse a context of more `tokens` (prompt and answer) than the device takes.

    Raises:
        UsageError: no such table, or a context that is too long.
    """
    longest = choose(legality, LEGALITY, "legality table").max_context
    if longest is not None and tokens > longest:
        raise UsageError(f"a context of {tokens} tokens is too long for {legality}", f"use at most {longest} tokens")


def check_operators(operators: Iterable[str], legality: str) -> None:
    """Refuse a graph with `operators`, named as in `Legality.refused_operators`, that must not reach the device.

    Raises:
        UsageError: no such table, or a refused operator; every one is named with its reason.
    """
    refused = choose(legality, LEGALITY, "legality table").refused_operators
    found = [f"{name} ({refused[name]})" for name in sorted(set(operators) & set(refused))]
    if found:
        raise UsageError(
            f"operators not legal on {legality}: {'; '.join(found)}", "lower the graph before compiling it"
        )


def _groups(table: Legality, bits: int) -> tuple[int, ...]:
    return (CHANNEL_WISE,) if bits == 8 else table.group_sizes


def _legal(table: Legality) -> list[tuple[int, bool, int]]:
    return [(b, s, g) for b in table.weight_bits for s in table.symmetric for g in _groups(table, b)]


def _broken_rule(table: Legality, bits: int, symmetric: bool, group_size: int) -> str | None:
    """The first rule the scheme breaks, in words, or None."""
    if bits not in table.weight_bits:
        return f"weight_bits must be {_either(table.weight_bits)}: {table.reasons['weight_bits']}"
    if symmetric not in table.symmetric:
        return f"symmetric must be {_either(table.symmetric)}: {table.reasons['symmetric']}"
    groups = _groups(table, bits)
    if group_size not in groups:
        reason = "8-bit weights are channel-wise" if bits == 8 else table.reasons["group_sizes"]
        return f"group_sizes must be {_either(groups)}: {reason}"
    return None


def _either(allowed: tuple[int, ...]) -> str:
    return " or ".join("channel-wise" if value == CHANNEL_WISE else str(value) for value in allowed)


def _distance(one: tuple[int, bool, int], other: tuple[int, bool, int]) -> tuple[int, bool, float]:
    """How far apart two schemes are: width first, then symmetry, then the ratio of the group sizes."""
    return abs(one[0] - other[0]), one[1] != other[1], abs(_octaves(one[2]) - _octaves(other[2]))


def _octaves(group_size: int) -> float:
    # Longer than any listed group, so that a channel is nearest to the largest one.
    return math.log2(group_size) if group_size > 0 else 16.0
