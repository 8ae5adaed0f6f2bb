"""`python -m tests.tiny_cli ...`: the command line as it is, with a golden set and rounds small enough for tests."""

import dataclasses
from pathlib import Path

import tapeout.cli_build
from tapeout.cli import run
from tapeout.jobs import Request
from tests.tiny_build import GOLDEN, LATENCY

make_request = tapeout.cli_build.make_request


def small_request(target: str, model: str, precision: str, store: Path) -> Request:
    """The request that the command line makes, smaller."""
    return dataclasses.replace(make_request(target, model, precision, store), golden=GOLDEN, latency=LATENCY)


if __name__ == "__main__":
    tapeout.cli_build.make_request = small_request
    run()
