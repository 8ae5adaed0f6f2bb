"""Report -> JUnit XML: a gate is a test case, so that every CI system can show and count them."""

from collections.abc import Iterable, Iterator
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from targets.status import Verdict
from validate import words
from validate.figures import NOT_MEASURED
from validate.report import Candidate, DeviceReport, GateResult, Report, RuntimeReport
from validate.safe_text import clean


def render_junit(report: Report) -> str:
    """One suite a device; its cases are the gates of what ships on each runtime, or of every package when none does."""
    suites = [_suite(report, device) for device in report.devices]
    root = Element("testsuites", {"name": clean(f"tapeout {report.target}"), **_counts(suites)})
    root.extend(suites)
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


def _none(device: DeviceReport) -> RuntimeReport:
    """A device that its target gives no runtime is still a row: nothing may go missing."""
    return RuntimeReport("none", None, device.verdict, device.reason, None, (), None)


def _suite(report: Report, device: DeviceReport) -> Element:
    name = clean(f"{report.target}.{device.name}")
    suite = Element("testsuite", {"name": name, "timestamp": clean(report.created)})
    facts: dict[str, str | None] = {
        "verdict": device.verdict.value,
        "reason": device.reason,
        "model": str(report.model.get("name", "")),
    }
    runtimes = device.runtimes or (_none(device),)
    for runtime in runtimes:
        facts |= {
            f"{runtime.backend}.verdict": runtime.verdict.value,
            f"{runtime.backend}.status": words.status_word(runtime),
            f"{runtime.backend}.reason": runtime.reason,
            f"{runtime.backend}.next_step": runtime.next_step,
            f"{runtime.backend}.package_digest": runtime.carried.package_digest if runtime.carried else None,
        }
    _properties(suite, facts)
    cases = [case for runtime in runtimes for case in _cases(clean(f"{name}.{runtime.backend}"), runtime)]
    suite.extend(cases)
    suite.attrib.update(_tally(cases))
    return suite


def _cases(suite: str, runtime: RuntimeReport) -> Iterator[Element]:
    if not runtime.candidates:
        yield _unjudged(suite, "package", runtime.verdict, runtime.reason)
    for candidate in words.deciding(runtime):
        if not candidate.gates:
            yield _unjudged(suite, f"{candidate.scheme} gates", candidate.verdict, candidate.why)
        for gate in candidate.gates:
            yield _case(suite, candidate, gate)


def _unjudged(suite: str, name: str, verdict: Verdict, reason: str) -> Element:
    """What has no gate is never a passed test."""
    case = Element("testcase", {"classname": suite, "name": clean(name)})
    SubElement(case, "failure" if verdict is Verdict.FAIL else "skipped", {"message": clean(reason)})
    return case


def _case(suite: str, candidate: Candidate, gate: GateResult) -> Element:
    twice = sum(other.name == gate.name for other in candidate.gates) > 1
    name = f"{candidate.scheme} {gate.name}{f' {gate.direction}' if twice else ''}"
    case = Element("testcase", {"classname": suite, "name": clean(name)})
    figures = {
        "value": NOT_MEASURED if gate.value is None else repr(gate.value),
        "bound": repr(gate.bound),
        "direction": gate.direction,
        "unit": gate.unit or None,
    }
    _properties(case, figures)
    message = clean(gate.reason or words.gate_sentence(gate))
    if gate.verdict is Verdict.FAIL:
        SubElement(case, "failure", {"type": "gate", "message": message}).text = clean(words.gate_sentence(gate))
    elif gate.verdict is Verdict.INCOMPLETE:
        SubElement(case, "skipped", {"message": message})
    return case


def _properties(parent: Element, values: dict[str, str | None]) -> None:
    box = SubElement(parent, "properties")
    for name, value in values.items():
        if value is not None:
            SubElement(box, "property", {"name": clean(name), "value": clean(value)})


def _tally(cases: Iterable[Element]) -> dict[str, str]:
    cases = list(cases)
    numbers = {tag: sum(case.find(tag) is not None for case in cases) for tag in ("failure", "skipped")}
    return {
        "tests": str(len(cases)),
        "failures": str(numbers["failure"]),
        "errors": "0",
        "skipped": str(numbers["skipped"]),
    }


def _counts(suites: Iterable[Element]) -> dict[str, str]:
    return _tally(case for suite in suites for case in suite.iter("testcase"))
