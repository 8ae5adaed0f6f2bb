"""Report -> the step summary of a GitHub Actions job, where a build runs in one."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from targets.errors import NoSpace

if TYPE_CHECKING:
    from validate.report import Report

VARIABLE = "GITHUB_STEP_SUMMARY"


def write_step_summary(report: "Report", environment: Mapping[str, str] = os.environ) -> Path | None:
    """Add the report to the step's summary; several builds of one step share its size.

    Returns:
        The file, or None outside of a job.

    Raises:
        NoSpace: the file that the job names cannot be written.
    """
    name = environment.get(VARIABLE)
    if not name:
        return None
    from validate.render_github import MOST_BYTES, render_github

    path = Path(name)
    try:
        used = path.stat().st_size if path.exists() else 0
        with path.open("a", encoding="utf-8") as summary:
            summary.write(render_github(report, MOST_BYTES - used) + "\n")
    except OSError as error:
        raise NoSpace(
            f"cannot write {VARIABLE}={name}: {error.strerror}", "unset the variable outside of a job"
        ) from error
    return path
