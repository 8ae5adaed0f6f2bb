"""What a target says of its Qualcomm HTP, checked before any work; loads nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

from compile.options import refuse_options
from targets.errors import UsageError
from targets.legality import check, parse_scheme, scheme_of
from targets.names import choose, suggestion

# Hexagon architectures, as the `htp_arch` of the execution provider. Each of these compiled.
ARCHITECTURES = (69, 73, 75, 79, 81)
REFUSED_ARCHITECTURES = {68: "onnxruntime-qnn leaves a graph for Hexagon v68 on the CPU and says nothing"}

# Qualcomm's number of a system on a chip -> its Hexagon, as ExecuTorch's Qualcomm back end lists them (`qc_schema.py`);
# the two laptops' numbers are those of QNN_SOC_MODEL_SC8380XP and QNN_SOC_MODEL_SC8480XP. Given another architecture
# than its own, a system on a chip is compiled for all the same.
HEXAGON_OF = {36: 69, 43: 73, 57: 75, 60: 73, 69: 79, 87: 81, 88: 81}

FLOAT16, UINT16 = "float16", "uint16"
ACTIVATIONS = {
    FLOAT16: "float activations, which the HTP computes in float16; nothing is calibrated",
    UINT16: "linear layers read and give 16-bit integers over calibrated ranges; the rest stays in float16",
}

# The legality table of weights beside 16-bit activations.
INTEGER_LEGALITY = "qualcomm-htp-uint16"

# Slots of the KV cache, and tokens that one prefill takes.
CONTEXT, CHUNK = 512, 64
LONGEST_CONTEXT = 32768


@dataclass(frozen=True)
class Hexagon:
    """The device to compile for.

    Attributes:
        soc_model: Qualcomm's number of the system on a chip.
        htp_arch: its Hexagon architecture.
    """

    soc_model: int
    htp_arch: int

    def provider_options(self) -> dict[str, str]:
        """What the execution provider is told. Both numbers: with one alone it compiles for its default.

        Left to itself it also puts a conversion at the border of the graph on the CPU.
        """
        return {
            "backend_type": "htp",
            "soc_model": str(self.soc_model),
            "htp_arch": str(self.htp_arch),
            "offload_graph_io_quantization": "0",
        }


@dataclass(frozen=True)
class QnnOptions:
    """What a target says of its HTP.

    Attributes:
        hexagon: the device.
        context: slots of the KV cache; a model of fewer positions gets as many as it has.
        chunk: tokens that one prefill takes.
        activations: a name of `ACTIVATIONS`.
    """

    hexagon: Hexagon
    context: int
    chunk: int
    activations: str

    @classmethod
    def read(cls, options: Mapping[str, str | int]) -> "QnnOptions":
        """From a target's options.

        Raises:
            UsageError: an unknown or missing option, or a value out of bounds.
        """
        refuse_options(options, ("soc_model", "htp_arch", "context", "chunk", "activations"), "qnn")
        hexagon = Hexagon(whole(options, "soc_model", None, 1 << 16), whole(options, "htp_arch", None, 1 << 16))
        check_device(hexagon.soc_model, hexagon.htp_arch)
        context = whole(options, "context", CONTEXT, LONGEST_CONTEXT)
        chunk = whole(options, "chunk", CHUNK, context)
        activations = str(options.get("activations", FLOAT16))
        choose(activations, ACTIVATIONS, "kind of activations")
        return cls(hexagon, context, chunk, activations)


def check_options(options: Mapping[str, str | int], recipe: str) -> None:
    """Refuse what the back end would refuse, without doing any work.

    Raises:
        UsageError: as `QnnOptions.read`, or weights that 16-bit activations cannot be multiplied by.
    """
    if QnnOptions.read(options).activations == UINT16:
        check(*parse_scheme(scheme_of(recipe)), INTEGER_LEGALITY)


def needs_ranges(options: Mapping[str, str | int]) -> bool:
    """Whether the package is made with calibrated activation ranges."""
    return options.get("activations") == UINT16


def needs(options: Mapping[str, str | int]) -> tuple[str, ...]:
    """Inputs of the package beside the quantized hub."""
    return ("ranges",) if needs_ranges(options) else ()


def whole(options: Mapping[str, str | int], name: str, default: int | None, largest: int) -> int:
    """A positive whole number among the options.

    Raises:
        UsageError: missing without a default, not a number, or out of bounds.
    """
    value = options.get(name, default)
    if value is None:
        raise UsageError(f"back end qnn needs the option '{name}'", f"give the device's {name} in the target file")
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise UsageError(f"option {name} = {value!r} is not a whole number from 1 to {largest}", "correct the target")
    return value


def check_device(soc_model: int, arch: int) -> None:
    """Refuse a Hexagon that this execution provider does not compile for, or that the system on a chip has not got.

    Raises:
        UsageError: an unknown architecture, one that falls back to the CPU, or another than `soc_model` has.
    """
    if arch in REFUSED_ARCHITECTURES:
        raise UsageError(f"htp_arch {arch} is not supported: {REFUSED_ARCHITECTURES[arch]}", "choose a newer device")
    if arch not in ARCHITECTURES:
        known = suggestion(str(arch), map(str, ARCHITECTURES))
        raise UsageError(f"htp_arch {arch} is not a Hexagon that onnxruntime-qnn compiles for", known)
    if HEXAGON_OF.get(soc_model, arch) != arch:
        own = HEXAGON_OF[soc_model]
        raise UsageError(f"soc_model {soc_model} has a Hexagon v{own}, not v{arch}", f"write htp_arch = {own}")
