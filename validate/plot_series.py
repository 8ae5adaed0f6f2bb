"""Which packages a plot shows, how each is called there, and the bounds that were applied to them."""

from collections.abc import Iterable

from validate.plot_style import LONGEST_DEVICE, LONGEST_LABEL
from validate.report import Candidate, Report
from validate.safe_text import clean_line


def ascii_label(text: str, longest: int = LONGEST_LABEL) -> str:
    """Short, so that the axes keep their room; ASCII, as the drawing machine may have no font for another script."""
    return clean_line(text).encode("ascii", "replace").decode()[:longest]


def short_label(candidate: Candidate) -> str:
    """A package where its device goes without saying."""
    return ascii_label(f"{candidate.backend} {candidate.scheme}")


def labelled(report: Report) -> Iterable[tuple[str, Candidate]]:
    """Every candidate with its label; a device is named only where the target has packages for several."""
    found = [(device, item) for device in report.devices for runtime in device.runtimes for item in runtime.candidates]
    several = len({device.name for device, _ in found}) > 1
    for device, item in found:
        yield (
            (f"{ascii_label(device.name, LONGEST_DEVICE)} {short_label(item)}" if several else short_label(item)),
            item,
        )


def timed(report: Report) -> list[tuple[str, Candidate]]:
    """What ships and was timed; when nothing ships, every candidate that was timed."""
    found = [(label, item) for label, item in labelled(report) if item.measurement.latency]
    return [pair for pair in found if pair[1].ships] or found


def bounds_of(candidates: Iterable[Candidate], prefix: str) -> dict[str, dict[str, float]]:
    """The bounds that were applied: by gate whose name starts so, then by precision class."""
    bounds: dict[str, dict[str, float]] = {}
    for item in candidates:
        for gate in item.gates:
            if gate.name.startswith(prefix):
                bounds.setdefault(gate.name, {})[item.precision] = gate.bound
    return bounds


def compared(report: Report) -> list[tuple[str, Candidate]]:
    """Every candidate whose fidelity was measured as it ships, in prefill and in decode."""
    measured = [(label, item, item.measurement.fidelity.get("deployed")) for label, item in labelled(report)]
    return [(label, item) for label, item, found in measured if found is not None and found.kl_decode is not None]
