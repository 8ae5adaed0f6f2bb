"""Write what a bundle carries as evidence beside its report: the chain, the bill of materials, the provenance."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.digest import list_files
from export.strict_json import write_json
from tapeout.bom import BOM, check_bom, make_bom
from tapeout.chain import CHAIN, link_of, source_of, write_chain
from tapeout.executor import Done
from tapeout.jobs import Job, Plan, Request, walk
from tapeout.provenance import PROVENANCE, external_parameters, make_provenance
from tapeout.wheels import installed_wheels
from validate.report import Report


@dataclass(frozen=True)
class Evidence:
    """What the documents say, beside the report.

    Attributes:
        external: what the user asked for.
        chain: from the source to the packages.
    """

    external: Mapping[str, Any] = field(default_factory=dict)
    chain: Mapping[str, Any] = field(default_factory=lambda: write_chain((), {}))


def gather_evidence(request: Request, plan: Plan, done: Mapping[Job, Done], folders: Mapping[str, Done]) -> Evidence:
    """The chain behind `folders` (results by their path in the bundle), and what was asked for."""
    keys = {path: result.record.key for path, result in folders.items()}
    wanted: dict[str, Any] = {}
    for job in plan.jobs():
        if job in done and done[job].record.key in keys.values():
            for needed in walk(job):
                wanted.setdefault(done[needed].record.key, link_of(needed.label, done[needed].record))
    chain = write_chain(list(wanted.values()), keys)
    return Evidence(external_parameters(request, source_of(chain)), chain)


def write_documents(report: Report, evidence: Evidence, identity: str, folder: Path) -> None:
    """Write the documents into a bundle that holds its packages and reports already.

    Raises:
        StageFailed: the bill of materials does not fit its schema.
    """
    write_json(folder / CHAIN, evidence.chain)
    links = evidence.chain["links"]
    names = {name for link in links for name in link["tools"]} | {
        name for stage in report.stages for name in stage.tools
    }
    wheels = installed_wheels(names)
    files = list_files(folder)
    bom = make_bom(report, links, files, wheels, identity)
    check_bom(bom)
    write_json(folder / BOM, bom)
    write_json(folder / PROVENANCE, make_provenance(evidence.external, links, files, wheels, report.tapeout))
