"""What keeps two measurements from being compared."""

from collections.abc import Collection, Iterator

from targets.gates import DRIFT_MAX
from validate.package_measurement import Measurement
from validate.report import Report
from validate.steadiness import drift_factor

# What may differ between two measurements of latency, and be compared over by the user's own decision.
DIFFERENCES = ("host", "governor", "threads", "versions", "drift")

HOST = ("architecture", "cpu_model", "cores_logical", "memory_bytes", "machine")


def fidelity_differs(before: Report, after: Report) -> str | None:
    """Why distances from the float model are not comparable; None when they are."""
    for name, words in (
        ("text_digest", "golden text"),
        ("plan", "size of the golden set"),
        ("perplexity", "float model"),
    ):
        if before.golden.get(name) != after.golden.get(name):
            return f"another {words}"
    return None


def latency_differs(before: Measurement, after: Measurement, across: Collection[str]) -> str | None:
    """Why times are not comparable; None when they are, or when the user compares over every difference."""
    reasons = [words for kind, words in differing(before, after) if kind not in across]
    return "; ".join(reasons) or None


def differing(before: Measurement, after: Measurement) -> Iterator[tuple[str, str]]:
    """(kind, words) of each difference between two machines as they were."""
    hosts = [{name: each.host.get(name) for name in HOST} for each in (before, after)]
    if hosts[0] != hosts[1]:
        yield "host", f"another host ({hosts[0]['cpu_model']}, now {hosts[1]['cpu_model']})"
    governors = [each.host.get("governor") for each in (before, after)]
    if governors[0] != governors[1]:
        yield "governor", f"another governor ({governors[0]}, now {governors[1]})"
    if before.threads != after.threads:
        yield "threads", f"{after.threads} threads, {before.threads} before"
    changed = [
        f"{name} {before.environment.get(name, 'absent')}, now {after.environment.get(name, 'absent')}"
        for name in sorted({*before.environment, *after.environment})
        if before.environment.get(name) != after.environment.get(name)
    ]
    if changed:
        yield "versions", f"another runtime version ({'; '.join(changed)})"
    for when, measurement in (("before", before), ("now", after)):
        if measurement.drift is not None and drift_factor(measurement.drift) > DRIFT_MAX:
            yield "drift", f"the machine drifted by a factor of {drift_factor(measurement.drift):.3g} {when}"
