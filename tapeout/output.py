"""Data on standard output, as JSON."""

import json
from typing import Any

import click


def echo_json(value: Any) -> None:
    """Print a value with sorted keys."""
    click.echo(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False))
