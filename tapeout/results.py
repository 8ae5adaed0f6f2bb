"""The values behind finished jobs."""

from collections.abc import Mapping
from typing import Any

from tapeout.executor import Done
from tapeout.jobs import Job
from tapeout.pipeline import find_stage
from tapeout.store import Store
from tapeout.values import from_json


def value_of(job: Job, done: Mapping[Job, Done], store: Store) -> Any:
    """A job's value; its files are not read, so they are not verified here."""
    record = done[job].record
    return from_json(find_stage(job.stage).value, dict(record.value), store.object_path(record.object))
