"""What a stage is: what it is called with, and what decides its result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Progress = Callable[[int, int], None]

# Every stage but the import, which may fetch a model, works on what is here.
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


@dataclass(frozen=True)
class Call:
    """What a stage is called with.

    Attributes:
        inputs: values of earlier stages, by name.
        parameters: part of the key: JSON values, every default filled in.
        arguments: not part of the key: where things are on this machine.
        out: an empty folder for the stage's files.
        progress: called with (done, in all).
    """

    inputs: Mapping[str, Any]
    parameters: Mapping[str, Any]
    arguments: Mapping[str, Any]
    out: Path
    progress: Progress


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: in keys, plans and reports.
        run: does the work.
        module: where the work is written; its code and what it imports of ours is the stage's version.
        value: `module:class` of what it returns.
        tools: distributions whose version can change the result; a tool that is not installed counts as absent.
        part: what the job's parameters choose from a table, beside `module` and `tools`.
        environment: variables its process gets.
        exclusive: it measures time, so nothing else may run beside it.
        timeout_s: after which it is stopped.
    """

    name: str
    run: Callable[[Call], Any]
    module: str
    value: str
    tools: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=lambda: OFFLINE)
    exclusive: bool = False
    timeout_s: int = 3600
    part: Callable[[Mapping[str, Any]], "Part"] | None = None

    def part_of(self, parameters: Mapping[str, Any]) -> "Part":
        """All that a job with `parameters` depends on beside them and its inputs."""
        chosen = self.part(parameters) if self.part is not None else Part((), ())
        return Part((self.module, *chosen.modules), (*self.tools, *chosen.tools), chosen.compiler)


@dataclass(frozen=True)
class Part:
    """What decides a stage's result beside its parameters and inputs.

    Attributes:
        modules: where the work is written.
        tools: distributions whose version can change it.
        compiler: a compiler that is no distribution, as it describes itself.
    """

    modules: tuple[str, ...]
    tools: tuple[str, ...]
    compiler: Mapping[str, str] = field(default_factory=dict)
