"""The pipeline: one tuple of stages, from a source to what was measured on a package.

    import --> export --> golden
                  |          |
                  +--> quantize --> compile --> measure

A stage takes frozen values and an empty folder, writes its files there and returns a frozen value. Modules are
imported when a stage runs: naming the stages costs nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from targets.names import choose

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
        part: the module and the tools that the job's parameters choose from a table, beside those above.
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
    part: Callable[[Mapping[str, Any]], tuple[str, tuple[str, ...]]] | None = None

    def modules(self, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """Where the work of a job with `parameters` is written."""
        return (self.module,) if self.part is None else (self.module, self.part(parameters)[0])

    def tools_of(self, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """Distributions whose version can change the result of a job with `parameters`."""
        return self.tools if self.part is None else (*self.tools, *self.part(parameters)[1])


def import_stage(call: Call) -> Any:
    """Source -> Model."""
    from export.model import import_model
    from export.source import parse_source

    return import_model(parse_source(call.arguments["source"]), call.out, Path(call.arguments["downloads"]))


def export_stage(call: Call) -> Any:
    """Model -> hub."""
    from export.hub import export_hub

    return export_hub(call.inputs["model"], call.out)


def golden_stage(call: Call) -> Any:
    """Hub -> golden reference."""
    from validate.golden import GoldenPlan, measure_golden

    return measure_golden(call.inputs["hub"], GoldenPlan(**call.parameters["plan"]), call.out, call.progress)


def quantize_stage(call: Call) -> Any:
    """Hub -> quantized hub."""
    from quantize.quantizer import quantize_model

    return quantize_model(call.inputs["hub"], call.parameters["scheme"], call.out, call.progress)


def compile_stage(call: Call) -> Any:
    """Quantized hub -> package."""
    from compile.backends import find_backend

    backend = find_backend(call.parameters["backend"])
    return backend.compile_package(call.inputs["quantized"], call.parameters["options"], call.out)


def compile_part(parameters: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The module and the tools of a job's back end."""
    from compile.backends import find_entry

    entry = find_entry(parameters["backend"])
    return f"compile.{entry.module}", entry.tools


def measure_part(parameters: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The module and the tools of a job's runtime."""
    from validate.runtime import find_entry

    entry = find_entry(parameters["backend"])
    return f"validate.{entry.module}", entry.tools


def measure_stage(call: Call) -> Any:
    """Package and golden reference -> measurement."""
    from validate.latency import LatencyPlan
    from validate.measure import measure_package

    plan = {**call.parameters["plan"], "prompt_lengths": tuple(call.parameters["plan"]["prompt_lengths"])}
    return measure_package(call.inputs["package"], call.inputs["golden"], LatencyPlan(**plan), call.out, call.progress)


STAGES = (
    Stage("import", import_stage, "export.model", "export.model:Model", ("gguf", "tokenizers"), {}),
    Stage(
        "export",
        export_stage,
        "export.hub",
        "export.hub:OnnxModel",
        ("onnx", "onnx-ir", "onnxruntime", "onnxscript", "optimum", "optimum-onnx", "torch", "transformers"),
    ),
    Stage("golden", golden_stage, "validate.golden", "validate.golden:Golden", ("onnxruntime", "tokenizers")),
    Stage(
        "quantize",
        quantize_stage,
        "quantize.quantizer",
        "quantize.quantizer:QuantizedModel",
        ("nncf", "onnx", "onnx-ir"),
    ),
    Stage(
        "compile",
        compile_stage,
        "compile.backends",
        "compile.package:Package",
        (),
        {**OFFLINE, "USE_TORCH": "0"},  # of transformers only the tokenizer is used; torch would take 4 s to import
        part=compile_part,
    ),
    Stage(
        "measure",
        measure_stage,
        "validate.measure",
        "validate.measure:Measured",
        ("tokenizers",),
        exclusive=True,
        part=measure_part,
    ),
)


def find_stage(name: str) -> Stage:
    """The stage called `name`.

    Raises:
        UsageError: there is none.
    """
    return choose(name, {stage.name: stage for stage in STAGES}, "stage")
