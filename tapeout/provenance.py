"""How the bundle was made: SLSA provenance v1, an in-toto statement about every package.

`docs/bundle.md` defines the build type. It holds neither times nor paths: the same inputs give the same bytes. When
stages ran, and for how long, is in the report.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from export.digest import digest_file, digest_value
from tapeout.jobs import Request
from tapeout.values import plain
from tapeout.wheels import Wheel

PROVENANCE = "provenance.slsa.json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
# Defined in docs/bundle.md.
BUILD_TYPE = "urn:tapeout:build:1"
BUILDER = "urn:tapeout:local-builder:1"


def make_provenance(
    external: Mapping[str, Any],
    links: Sequence[Mapping[str, Any]],
    files: Mapping[str, str],
    wheels: Iterable[Wheel],
    tapeout: str,
) -> dict[str, Any]:
    """The statement.

    Args:
        external: what the user asked for, from `external_parameters`.
        links: the chain's.
        files: SHA-256 of every file of the bundle, by path.
        wheels: that took part.
        tapeout: version of this program.
    """
    packages = {path: digest for path, digest in files.items() if path.startswith(("packages/", "rejected/"))}
    return {
        "_type": STATEMENT,
        "subject": [{"name": path, "digest": {"sha256": digest}} for path, digest in sorted(packages.items())],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": dict(external),
                "internalParameters": {"stages": [stage(link) for link in links]},
                "resolvedDependencies": [*sources(links), *map(distribution, wheels), *compilers(links, wheels)],
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"tapeout": tapeout}},
                "byproducts": [{"name": "chain.json", "digest": {"sha256": files["chain.json"]}}],
            },
        },
    }


def external_parameters(request: Request, source: Mapping[str, str]) -> dict[str, Any]:
    """What the user asked for. Files are named by their digests: where they lay is no part of it.

    Args:
        request: of the build.
        source: the identity of its source.
    """
    return {
        "target": {"name": request.target.name, "digest": digest_value(plain(dataclasses.asdict(request.target)))},
        "source": dict(source),
        "precision": request.precision,
        "suite": request.suite,
        "sequence": request.sequence,
        "weight_bytes_max": request.weight_bytes_max,
        "recipes": plain(request.found),
        **({"prefix": digest_file(Path(request.prefix))} if request.prefix else {}),
    }


def stage(link: Mapping[str, Any]) -> dict[str, Any]:
    """A stage that ran: what was asked of it, and which code did it."""
    return {name: link[name] for name in ("stage", "label", "key", "version", "parameters")}


def sources(links: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The model that was imported: what it was, and the files that came of it."""
    found: list[dict[str, Any]] = []
    for link in links:
        source = link["parameters"].get("source")
        if link["stage"] != "import" or not isinstance(source, dict):
            continue
        digest = {"sha256": source["sha256"]} if "sha256" in source else {"gitCommit": source["revision"]}
        found.append({"name": f"model {source['name']}", "digest": digest, "annotations": dict(source)})
        found += [
            {"name": f"imported/{path}", "digest": {"sha256": each}} for path, each in sorted(link["files"].items())
        ]
    return found


def distribution(wheel: Wheel) -> dict[str, Any]:
    """A Python distribution. Its digest is over what was in its wheel (`tapeout.wheels`), not over the wheel's file."""
    found: dict[str, Any] = {"name": wheel.name, "uri": wheel.purl}
    return found | ({"digest": {"recordSha256": wheel.contents}} if wheel.contents else {})


def compilers(links: Sequence[Mapping[str, Any]], wheels: Iterable[Wheel]) -> list[dict[str, Any]]:
    """Tools of stages that are no Python distribution: vendors' compilers, as they describe themselves."""
    known = {wheel.name for wheel in wheels}
    tools = {name: version for link in links for name, version in link["tools"].items() if version != "absent"}
    return [
        {"name": name, "uri": f"urn:tapeout:tool:{name}", "annotations": {"version": version}}
        for name, version in sorted(tools.items())
        if name not in known
    ]
