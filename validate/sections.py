"""The sections of a report in the order every format shows them, and what each still lacks."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from validate.report import Candidate, Report


@dataclass(frozen=True)
class Gap:
    """What a section lacks.

    Attributes:
        reason: one sentence: what was not measured.
        step: one sentence: what closes the gap.
    """

    reason: str
    step: str


@dataclass(frozen=True)
class Section:
    """One section.

    Attributes:
        name: its id in a page, and the name of its template.
        title: its heading.
        gap: what it lacks, or None when it holds what it promises.
    """

    name: str
    title: str
    gap: Callable[[Report], Gap | None]


def candidates(report: Report) -> tuple[Candidate, ...]:
    """Every package that was built, device by device."""
    return tuple(item for device in report.devices for runtime in device.runtimes for item in runtime.candidates)


def gaps(report: Report) -> tuple[tuple[Section, Gap], ...]:
    """Every section that lacks something, in order."""
    found = ((section, section.gap(report)) for section in SECTIONS)
    return tuple((section, gap) for section, gap in found if gap is not None)


def _never(_: Report) -> Gap | None:
    return None


def _without(has: Callable[[Report], object], reason: str, step: str) -> Callable[[Report], Gap | None]:
    """The gap of a section that `has` finds nothing for."""
    return lambda report: None if has(report) else Gap(reason, step)


def _any(read: Callable[[Candidate], object]) -> Callable[[Report], object]:
    """Whether any package has what is read."""
    return lambda report: _some(read(item) for item in candidates(report))


def _some(values: Iterable[object]) -> bool:
    return any(bool(value) for value in values)


MEASURE = "Run `tapeout validate BUNDLE` where a device of this target is."

SECTIONS = (
    Section("devices", "Devices", _never),
    Section("comparison", "Comparison", _without(candidates, "No package was built.", "See the next steps above.")),
    Section("identification", "Identification", _never),
    Section(
        "traceability",
        "Requirements and traceability",
        _without(_any(lambda item: item.gates), "No gate was applied.", MEASURE),
    ),
    Section(
        "approach",
        "Test approach",
        _without(lambda report: report.golden, "There is no golden reference.", "Build the bundle again."),
    ),
    Section(
        "environment",
        "Environment",
        _without(_any(lambda item: item.measurement.host), "No package ran, so no host was recorded.", MEASURE),
    ),
    Section(
        "conversion",
        "Conversion evidence",
        _without(lambda report: report.stages, "No stage left a record.", "Build the bundle again."),
    ),
    Section(
        "accuracy",
        "Accuracy",
        _without(_any(lambda item: item.measurement.fidelity), "Nothing was compared with the float model.", MEASURE),
    ),
    Section(
        "latency",
        "Latency and throughput",
        _without(_any(lambda item: item.measurement.latency), "Nothing was timed.", MEASURE),
    ),
    Section(
        "soak",
        "Thermal soak",
        _without(
            _any(lambda item: item.measurement.soak),
            "No package was kept under constant load.",
            "Run `tapeout soak BUNDLE` on the device: 30 minutes for each package.",
        ),
    ),
    Section(
        "memory",
        "Memory and storage",
        _without(_any(lambda item: item.measurement.loading), "No package was loaded and weighed.", MEASURE),
    ),
    Section(
        "energy",
        "Energy",
        _without(
            _any(lambda item: item.measurement.soak is not None and item.measurement.soak.joules is not None),
            "No energy sensor was read.",
            "Run `tapeout soak BUNDLE` where the system lets its energy counter be read, or measure at the supply.",
        ),
    ),
    Section(
        "robustness",
        "Robustness",
        _without(
            _any(lambda item: item.measurement.parity or item.measurement.felt or item.measurement.kv_cache),
            "No package was asked for answers, a long context or unusual text.",
            MEASURE,
        ),
    ),
    Section(
        "safety",
        "Safety and content",
        _without(
            lambda _: False,
            "No safety prompts were given: what must be refused is for the product's owner to say.",
            "Run the owner's prompts through the shipped package; no failure in 300 bounds the rate below 1 %.",
        ),
    ),
    Section("security", "Security", _never),
    Section("limitations", "Limitations and waivers", _never),
    Section(
        "change",
        "Change since the last release",
        _without(
            lambda report: report.change,
            "No earlier release was given to compare with.",
            "Build with `--baseline BUNDLE`, or compare two bundles with `tapeout diff`.",
        ),
    ),
    Section("data", "Raw data and recomputation", _never),
    Section("approvals", "Approvals", _never),
)
