"""`python -m tests.tiny_cli ...`: the command line as it is, with a golden set and rounds small enough for tests."""

import functools

import tapeout.jobs
from tapeout.cli import run
from tests.tiny_build import GOLDEN, LATENCY

if __name__ == "__main__":
    tapeout.jobs.Request = functools.partial(  # type: ignore[misc,assignment]
        tapeout.jobs.Request, golden=GOLDEN, latency=LATENCY
    )
    run()
