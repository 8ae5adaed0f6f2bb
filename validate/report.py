"""The report: measurements, gates and the verdict of one target and model, and its JSON."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from targets.cost import Alternative, Cost
from targets.errors import InputRefused
from targets.status import Status, Verdict
from validate.change import Change
from validate.package_measurement import Measurement
from validate.search_report import PackageDiagnosis, SearchReport, WeightSensitivity

SCHEMA_VERSION = 3


@dataclass(frozen=True)
class GateResult:
    """One gate.

    Attributes:
        name: what is judged, as `deployed.kl_mean` or `ttft_ms.512`.
        verdict: PASS, FAIL, or INCOMPLETE when the figure was not measured.
        value: the figure, or None.
        bound: what it must reach.
        direction: `max` when the figure must not exceed the bound, `min` when it must reach it.
        unit: of both.
        reason: one sentence for a FAIL or an INCOMPLETE.
    """

    name: str
    verdict: Verdict
    value: float | None
    bound: float
    direction: str
    unit: str
    reason: str | None = None


@dataclass(frozen=True)
class Candidate:
    """A package that was built and judged, whether it ships or not.

    Attributes:
        backend: its runtime.
        scheme: its quantization scheme.
        precision: `int4` or `int8`.
        verdict: of its gates.
        ships: every gate passed and it was chosen.
        carried: its package is in the bundle: below `packages/` when it ships or only evidence is missing, below
            `rejected/` when no candidate is better than one that failed.
        why: one sentence: why it ships, or why not.
        package_bytes: size on disk.
        package_digest: of its files.
        weights_digest: of its quantized weights.
        checks: what the back end counted in the compiled graph.
        settings: runtime properties it is loaded with.
        evidence: what was proved of it, the furthest first.
        requires: what it is tied to on the device.
        measurement: the figures.
        gates: one result a gate.
    """

    backend: str
    scheme: str
    precision: str
    verdict: Verdict
    ships: bool
    carried: bool
    why: str
    package_bytes: int
    package_digest: str
    weights_digest: str
    checks: dict[str, int]
    settings: dict[str, Any]
    evidence: tuple[Status, ...]
    requires: dict[str, str]
    measurement: Measurement
    gates: tuple[GateResult, ...]


@dataclass(frozen=True)
class Failure:
    """A candidate that a stage could not make or measure; the others went on.

    Attributes:
        scheme: its quantization scheme.
        stage: which stage ended it.
        error: kind of the error, as `StageFailed` or `DeviceMissing`.
        what: what happened.
        help: what to do next.
    """

    scheme: str
    stage: str
    error: str
    what: str
    help: str


@dataclass(frozen=True)
class RuntimeReport:
    """One runtime on one device.

    Attributes:
        backend: name of the back end.
        status: how far the package got, or None when there is none.
        verdict: of the package that ships, FAIL when every candidate failed, INCOMPLETE when there is none.
        reason: one sentence.
        next_step: what turns an INCOMPLETE into a verdict, or None.
        candidates: from the smallest scheme to the safest.
        folder: the carried package's folder in the bundle, or None.
        failures: candidates that a stage could not make or measure.
    """

    backend: str
    status: Status | None
    verdict: Verdict
    reason: str
    next_step: str | None
    candidates: tuple[Candidate, ...]
    folder: str | None
    failures: tuple[Failure, ...] = ()

    @property
    def shipped(self) -> Candidate | None:
        """The candidate that passed every gate and was chosen."""
        return next((candidate for candidate in self.candidates if candidate.ships), None)

    @property
    def carried(self) -> Candidate | None:
        """The candidate whose package is in the bundle."""
        return next((candidate for candidate in self.candidates if candidate.carried), None)


@dataclass(frozen=True)
class DeviceReport:
    """One device of the target: its runtimes and the verdict over them."""

    name: str
    kind: str
    vendor: str
    generation: str
    verdict: Verdict
    reason: str
    runtimes: tuple[RuntimeReport, ...]


@dataclass(frozen=True)
class StageRecord:
    """One stage of the build, as evidence.

    Attributes:
        name: what ran, with what distinguishes it (`quantize w8-sym`).
        key: its key in the store.
        output: digest of its output.
        seconds: wall time when it ran.
        peak_memory_bytes: largest resident size when it ran.
        cached: it was not run for this report.
        tools: versions it depends on.
    """

    name: str
    key: str
    output: str
    seconds: float
    peak_memory_bytes: int
    cached: bool
    tools: dict[str, str]


@dataclass(frozen=True)
class Report:
    """Everything a person needs to decide whether the product ships.

    Attributes:
        schema_version: of this layout.
        target: name of the target.
        product: one sentence naming it.
        model: `ModelFacts` as a dictionary.
        verdict: over all devices.
        headline: one sentence: ship, do not ship, or what is still missing.
        devices: in the target's order.
        assumptions: of the target, and of these measurements.
        golden: how the reference was made: windows, tokens, digests, the float model's perplexity.
        parity: largest logit differences between the hub and its reference, and of which layers.
        stages: of the build.
        searches: what `precision=auto` tried, by device.
        sensitivity: what each weight costs, when a recipe or a search asked for it.
        requirements: the product's ids of the requirements behind the gates, by gate.
        cost: what the target's owner says that the device costs.
        alternatives: what else could answer, as the target's owner says.
        layer_costs: KL when all weights of a layer are quantized and no others, by layer; () where that was not asked.
        diagnoses: the weights that are to blame where every package of a runtime fails for its numbers.
        change: since a baseline, where one was named.
        tapeout: version of this program.
        created: ISO 8601 time of the newest measurement.
    """

    schema_version: int
    target: str
    product: str
    model: dict[str, Any]
    verdict: Verdict
    headline: str
    devices: tuple[DeviceReport, ...]
    assumptions: tuple[str, ...]
    golden: dict[str, Any]
    parity: dict[str, Any]
    stages: tuple[StageRecord, ...]
    tapeout: str
    created: str
    searches: tuple[SearchReport, ...] = ()
    sensitivity: tuple[WeightSensitivity, ...] = ()
    requirements: dict[str, str] = field(default_factory=dict)
    cost: Cost | None = None
    alternatives: tuple[Alternative, ...] = ()
    layer_costs: tuple[float, ...] = ()
    diagnoses: tuple[PackageDiagnosis, ...] = ()
    change: Change | None = None


def to_json(report: Report) -> str:
    """The report as JSON with sorted keys and a final newline."""
    return json.dumps(dataclasses.asdict(report), indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def read_report(path: Path) -> Report:
    """The report in a JSON file.

    Raises:
        InputRefused: not a report, or of a newer schema.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        version = document.get("schema_version", 0)
        if type(version) is not int:
            raise InputRefused(f"{path} has no schema version", "build the bundle again")
        if version != SCHEMA_VERSION:
            age, step = ("newer", "update Tapeout") if version > SCHEMA_VERSION else ("older", "build the bundle again")
            raise InputRefused(f"{path} has schema {version}, {age} than {SCHEMA_VERSION}", step)
        return TypeAdapter(Report).validate_python(document)
    except (OSError, ValueError, AttributeError, RecursionError, ValidationError) as error:
        raise InputRefused(f"{path} is not a Tapeout report: {error}", "build the bundle again") from error
