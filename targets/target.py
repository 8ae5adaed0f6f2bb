"""Turn a target file into a Target: the product, its devices, the scheme ladder each gets, and the gates."""

import dataclasses
import json
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from targets.cost import Alternative, Cost
from targets.errors import UsageError
from targets.gates import FieldError, Gates, Limits
from targets.legality import PRECISIONS, check_recipe, precision_of
from targets.names import choose, nearest, suggestion
from targets.regression import Regression
from targets.status import Status

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

SCHEMA = 1
DATA = Path(__file__).parent / "data"

# The extensions that runtimes choose kernels or number formats by, as /proc/cpuinfo spells them.
INSTRUCTION_SETS = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)

# Names become folders of a bundle.
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Runtime:
    """One runtime on one device.

    Attributes:
        backend: the compile back end that makes its package: `openvino`, `onnxruntime`, `null` or one yet to come.
        legality: the table of `targets.legality` its weights are checked against.
        schemes: the ladder of quantization schemes or recipes, from the smallest to the safest.
        status: how far this release takes the package on a host that has the same kind of device.
        missing: why this release cannot make the package; exactly one of `status` and `missing` is given.
        next_step: what would make it possible; given with `missing`.
        options: what the back end must know of the device, as `npu_platform` or `soc_model`; it refuses unknown keys.
        off_device: operator types that the product allows outside the device; any other one fails the placement gate.

    Raises:
        FieldError: an empty ladder, a doubled or illegal scheme, or a status and a reason that contradict each other.
    """

    backend: str
    legality: str
    schemes: tuple[str, ...]
    status: Status | None = None
    missing: str | None = None
    next_step: str | None = None
    options: dict[str, str | int] = field(default_factory=dict)
    off_device: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_unique("schemes", list(self.schemes))
        for scheme in self.schemes:
            try:
                check_recipe(scheme, self.legality)
            except UsageError as error:
                raise FieldError(error.what, error.help) from error
        _require(
            (self.status is None) == bool(self.missing) == bool(self.next_step)
            and "" not in (self.missing, self.next_step),
            f"runtime '{self.backend}' needs either a status, or missing and next_step",
            "give status where this release makes the package, else say what is missing and what comes next",
        )


@dataclass(frozen=True, slots=True)
class Device:
    """One processor of the product.

    Attributes:
        name: unique within the target; the package's folder.
        kind: `cpu`, `igpu` or `npu`.
        vendor: who makes it.
        generation: what the vendor calls this generation of it; an NPU's next generation is another device.
        runtimes: what can run a model on it.
        architecture: instruction set architecture of a CPU; `any` where none is needed.
        instruction_sets: those of `INSTRUCTION_SETS` that the CPU has; () when they vary from one to the next.

    Raises:
        FieldError: no runtime, two of one back end, an unknown instruction set, or a name that cannot be a folder.
    """

    name: str
    kind: Literal["cpu", "igpu", "npu"]
    vendor: str
    generation: str
    runtimes: tuple[Runtime, ...]
    architecture: Literal["x86-64", "arm64", "any"] = "any"
    instruction_sets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_name(self.name)
        _require_unique("runtimes", [runtime.backend for runtime in self.runtimes])
        for name in self.instruction_sets:
            known = suggestion(name, INSTRUCTION_SETS)
            _require(name in INSTRUCTION_SETS, f"unknown instruction set '{name}'", known)


@dataclass(frozen=True, slots=True)
class Target:
    """A product: what is built, for which devices, and what it must reach.

    Attributes:
        name: the target's name; the bundle's folder.
        product: one sentence naming the product.
        devices: its processors.
        gates: what a package must reach, by precision class `int4` or `int8`, with `limits` already in each of them.
        limits: what the product allows at every precision.
        prompt_lengths: lengths, in tokens, at which latency is measured; ascending.
        assumptions: what was assumed about the product, one sentence each, printed in the report.
        requirements: the product's own id of the requirement behind a gate, by the gate's name or a part of it.
        cost: what the device's tokens cost; None where nobody has said what the device costs.
        alternatives: what else could answer, for the report's comparison.
        regression: how much worse than a baseline a package may be.

    Raises:
        FieldError: a scheme without gates, a gate that no measurement would feed, doubled or unusable names.
    """

    # Holds for every dataclass below it too.
    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: str
    product: str
    devices: tuple[Device, ...]
    gates: dict[str, Gates]
    limits: Limits = field(default_factory=Limits)
    prompt_lengths: tuple[int, ...] = (32, 128, 512, 1024)
    assumptions: tuple[str, ...] = ()
    requirements: dict[str, str] = field(default_factory=dict)
    cost: Cost | None = None
    alternatives: tuple[Alternative, ...] = ()
    regression: Regression = field(default_factory=Regression)

    def __post_init__(self) -> None:
        _require_name(self.name)
        _require_unique("devices", [device.name for device in self.devices])
        lengths = self.prompt_lengths
        _require(
            bool(lengths) and lengths[0] > 0 and list(lengths) == sorted(set(lengths)),
            f"prompt_lengths = {list(lengths)} is not an ascending list of token counts",
            "write prompt_lengths = [32, 128, 512, 1024]",
        )
        object.__setattr__(self, "gates", {key: gates.within(self.limits) for key, gates in self.gates.items()})
        self._require_gates()

    @property
    def gates_spread(self) -> bool:
        """Some gate judges the spread over process restarts."""
        return any(gates.spread_max is not None for gates in self.gates.values())

    def _require_gates(self) -> None:
        for precision, gates in self.gates.items():
            known = suggestion(precision, PRECISIONS)
            _require(precision in PRECISIONS, f"gates for unknown precision class '{precision}'", known)
            unmeasured = sorted(set(gates.ttft_ms_max or {}) - set(self.prompt_lengths))
            _require(
                not unmeasured,
                f"ttft_ms_max names prompt lengths {unmeasured} that are not measured",
                "add them to prompt_lengths",
            )
        for runtime in (runtime for device in self.devices for runtime in device.runtimes):
            for precision in map(precision_of, runtime.schemes):
                _require(
                    precision in self.gates,
                    f"runtime '{runtime.backend}' has an {precision} scheme and there is no [gates.{precision}]",
                    f"add a [gates.{precision}] table",
                )


def list_targets() -> tuple[str, ...]:
    """The names of the targets that come with Tapeout, sorted."""
    return tuple(sorted(path.stem for path in DATA.glob("*.toml")))


def load_target(name_or_path: str) -> Target:
    """The target of that name, or the one in the user's file when it ends in `.toml`.

    Raises:
        UsageError: unknown name, unreadable file, or wrong contents; every wrong key is listed with its path.
    """
    if not name_or_path.endswith(".toml"):
        path = choose(name_or_path, {name: DATA / f"{name}.toml" for name in list_targets()}, "target")
    else:
        path = Path(name_or_path)
    try:
        document = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise UsageError(f"cannot read target file {path}: {error.strerror}", "check the path") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}", f"{DATA / 'cpu.toml'} is a complete example") from error
    return parse_target(document, str(path))


def parse_target(document: dict[str, Any], origin: str) -> Target:
    """The target a parsed file describes; `origin` names the file in errors.

    Raises:
        UsageError: wrong contents; every wrong key is listed with its path.
    """
    from pydantic import TypeAdapter, ValidationError

    version = document.get("schema")
    if type(version) is not int or version != SCHEMA:
        raise UsageError(f"{origin}: schema is {version!r}, not {SCHEMA}", f"write `schema = {SCHEMA}` at the top")
    contents = {key: value for key, value in document.items() if key != "schema"}
    try:
        # As JSON, because strict JSON takes arrays for tuples and keys for numbers, yet no "0.1" for 0.1.
        return TypeAdapter(Target).validate_json(json.dumps(contents, default=str), strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False)
        lines = "".join(f"\n  {_explain(detail)}" for detail in details)
        raise UsageError(
            f"{origin} has {len(details)} wrong {'entry' if len(details) == 1 else 'entries'}:{lines}",
            f"correct each; {DATA / 'cpu.toml'} is a complete example",
        ) from error


# The type that stands at each place of a target file; `*` is a list index or a precision class.
_PLACES: dict[tuple[str, ...], type] = {
    (): Target,
    ("limits",): Limits,
    ("cost",): Cost,
    ("alternatives", "*"): Alternative,
    ("regression",): Regression,
    ("gates", "*"): Gates,
    ("devices", "*"): Device,
    ("devices", "*", "runtimes", "*"): Runtime,
}


def _explain(detail: "ErrorDetails") -> str:
    """One line for one of pydantic's errors: where, what, and what was probably meant."""
    place = detail["loc"]
    path = ".".join(map(str, place)) or "the file"
    if detail["type"] == "unexpected_keyword_argument":
        parent = tuple("*" if depth % 2 else str(part) for depth, part in enumerate(place[:-1]))
        known = [entry.name for entry in dataclasses.fields(_PLACES[parent])]
        close = nearest(str(place[-1]), known)
        return f"{path}: unknown key; " + (f"did you mean '{close}'?" if close else f"known: {', '.join(known)}")
    if detail["type"] == "missing":
        return f"{path}: this key is required"
    refused = detail.get("ctx", {}).get("error")
    return f"{path}: {refused.what}; {refused.help}" if isinstance(refused, FieldError) else f"{path}: {detail['msg']}"


def _require(holds: bool, what: str, help: str) -> None:  # noqa: A002 - as in targets.errors
    if not holds:
        raise FieldError(what, help)


def _require_name(name: str) -> None:
    _require(bool(_NAME.fullmatch(name)), f"'{name}' cannot name a folder", "use a-z, 0-9 and single dashes")


def _require_unique(kind: str, names: list[str]) -> None:
    _require(bool(names), f"{kind} is empty", f"add at least one of {kind}")
    doubled = sorted({name for name in names if names.count(name) > 1})
    _require(not doubled, f"{kind} has {', '.join(doubled)} more than once", "give each its own name")
