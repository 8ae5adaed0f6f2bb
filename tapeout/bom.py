"""The bundle's bill of materials: CycloneDX 1.6 with a model card for every package, checked against its schema.

No time is in it: the same build gives the same bytes. What a clock said is in the report.
"""

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tapeout.wheels import Wheel
from targets.errors import StageFailed
from validate.measurement import Fidelity
from validate.report import Candidate, Report

BOM = "bom.cdx.json"
SPEC = "1.6"
MODEL = "source-model"
GOLDEN = "golden-texts"
CALIBRATION = "calibration-texts"
# Of a figure's significant digits: more would be noise of the machine's arithmetic.
DIGITS = 9


def make_bom(
    report: Report, links: Sequence[Mapping[str, Any]], files: Mapping[str, str], wheels: Iterable[Wheel], identity: str
) -> dict[str, Any]:
    """The bill of materials.

    Args:
        report: of the build.
        links: the chain's.
        files: SHA-256 of every file of the bundle, by path.
        wheels: that took part.
        identity: of the bundle; its serial number is made of it.
    """
    shipped = {
        runtime.folder: runtime.carried
        for device in report.devices
        for runtime in device.runtimes
        if runtime.folder is not None and runtime.carried is not None
    }
    libraries = [library(wheel) for wheel in wheels]
    data = datasets(report, links)
    packages = [package(report, path, candidate, files, data) for path, candidate in sorted(shipped.items())]
    needed = [MODEL, *(each["bom-ref"] for each in libraries)]
    root = f"{report.target}/{report.model['name']}"
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'urn:tapeout:{identity}')}",
        "version": 1,
        "metadata": {
            "component": {"type": "application", "bom-ref": root, "name": root, "description": report.headline},
            "tools": {"components": [{"type": "application", "name": "tapeout", "version": report.tapeout}]},
        },
        "components": [source_model(report), *packages, *data, *libraries],
        "dependencies": [
            {"ref": root, "dependsOn": [each["bom-ref"] for each in packages]},
            *({"ref": each["bom-ref"], "dependsOn": needed} for each in packages),
        ],
    }


def source_model(report: Report) -> dict[str, Any]:
    """The model that was imported."""
    model = report.model
    source = {str(name): str(value) for name, value in model["source"].items()}
    found = {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": model["name"],
        "version": source.get("revision", source.get("sha256", "unknown"))[:40],
        "licenses": licence(model["licence"]),
        "properties": properties({f"tapeout:source:{name}": value for name, value in source.items()}),
        "modelCard": {"modelParameters": parameters(report)},
    }
    return found | ({"hashes": hashes(source["sha256"])} if "sha256" in source else {})


def package(
    report: Report, path: str, candidate: Candidate, files: Mapping[str, str], data: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A package with its files and its model card."""
    inside = sorted(name for name in files if name.startswith(f"{path}/"))
    card: dict[str, Any] = {
        "modelParameters": parameters(report) | {"datasets": [{"ref": each["bom-ref"]} for each in data]},
        "considerations": {"technicalLimitations": [candidate.why, *report.assumptions]},
    }
    metrics = [metric for setting, one in candidate.measurement.fidelity.items() for metric in figures(setting, one)]
    if metrics:
        card["quantitativeAnalysis"] = {"performanceMetrics": metrics}
    said = {
        "tapeout:backend": candidate.backend,
        "tapeout:recipe": candidate.scheme,
        "tapeout:verdict": candidate.verdict,
        "tapeout:weights-digest": candidate.weights_digest,
        "tapeout:files-digest": candidate.package_digest,
        **{f"tapeout:requires:{name}": value for name, value in candidate.requires.items()},
    }
    return {
        "type": "machine-learning-model",
        "bom-ref": path,
        "name": path,
        "licenses": licence(report.model["licence"]),
        "properties": properties(said),
        "modelCard": card,
        "components": [
            {"type": "file", "bom-ref": name, "name": name, "hashes": hashes(files[name])} for name in inside
        ],
    }


def figures(setting: str, found: Fidelity) -> list[dict[str, Any]]:
    """How far a package is from the float model."""
    kl = metric(f"KL divergence from the float model, nats per token, {setting}", found.kl_mean, setting)
    kl["confidenceInterval"] = {"lowerBound": number(found.kl_low), "upperBound": number(found.kl_high)}
    return [
        kl,
        metric(f"top-1 agreement with the float model, {setting}", found.top1, setting),
        metric(f"perplexity over that of the float model, {setting}", found.perplexity_ratio, setting),
    ]


def metric(kind: str, value: float, part: str) -> dict[str, Any]:
    """A figure as CycloneDX has it."""
    return {"type": kind, "value": number(value), "slice": f"golden texts, {part}"}


def datasets(report: Report, links: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The texts that were measured on, and those that were calibrated on."""
    golden = report.golden.get("text_digest")
    found = [dataset(GOLDEN, "what every package is held against the float model on", golden)] if golden else []
    calibrated = [link for link in links if link["stage"] == "calibrate"]
    for link in calibrated[:1]:
        text = link["parameters"].get("text")
        what = "the user's own text" if text else "text that the float model wrote itself"
        found.append(dataset(CALIBRATION, what, text))
    return found


def dataset(name: str, what: str, digest: str | None) -> dict[str, Any]:
    """A set of texts."""
    contents = {"type": "dataset", "name": name, "description": what}
    found = {"type": "data", "bom-ref": name, "name": name, "data": [contents]}
    return found | ({"hashes": hashes(digest)} if digest else {})


def parameters(report: Report) -> dict[str, Any]:
    """What kind of model it is."""
    return {
        "task": "text-generation",
        "architectureFamily": "transformer decoder",
        "modelArchitecture": report.model["architecture"],
        "inputs": [{"format": "text"}],
        "outputs": [{"format": "text"}],
    }


def library(wheel: Wheel) -> dict[str, Any]:
    """A Python distribution that took part."""
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": wheel.purl,
        "name": wheel.name,
        "version": wheel.version,
        "purl": wheel.purl,
        "properties": properties({"tapeout:contents-sha256": wheel.contents} if wheel.contents else {}),
    }
    return found | ({"licenses": licence(wheel.licence)} if wheel.licence else {})


def licence(name: str) -> list[dict[str, Any]]:
    """An SPDX expression, or words."""
    if name == "NOASSERTION":
        return [{"license": {"name": name}}]
    return [{"expression": name}]


def hashes(digest: str) -> list[dict[str, str]]:
    """A SHA-256 as CycloneDX has it."""
    return [{"alg": "SHA-256", "content": digest}]


def properties(table: Mapping[str, Any]) -> list[dict[str, str]]:
    """Names and values, sorted."""
    return [{"name": name, "value": str(value)} for name, value in sorted(table.items())]


def number(value: float) -> str:
    """A figure without the noise of its last digits."""
    return f"{value:.{DIGITS}g}"


def check_bom(bom: Mapping[str, Any]) -> None:
    """Hold a bill of materials against the strict schema of its version.

    Raises:
        StageFailed: it does not fit; names the place.
    """
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bom))
    if fault is not None:
        first = str(fault).strip().partition("\n")[0]
        raise StageFailed(
            f"the bill of materials is not CycloneDX {SPEC}: {first}", "report this model: it is our fault"
        )
