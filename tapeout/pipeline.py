"""The pipeline: one tuple of stages, from a source to what was measured on a package.

    import --> export ------> golden
      |           |              |
      |           +--> quantize --> compile --> measure
      |                  |    |
      +--> calibrate ----+    |     the float model's own text, for what looks at more than the weights
              |               |
              +--> ranges ----+     what linear layers read and give, for devices with integer activations
              |               |
              +--> sensitivity+     what each weight costs, for recipes that keep some in 8 bits

A search puts `screen` between compile and measure: what fails there on its weights alone is not measured further.
A build with a prefix puts `prefix` there: the KV state that every request begins with, shipped beside its package.
Where every package of a runtime fails for its numbers, `diagnose` says after judging which weights are to blame.

A stage takes frozen values and an empty folder, writes its files there and returns a frozen value. Modules are
imported when a stage runs: naming the stages costs nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tapeout.stage import OFFLINE, Call, Part, Stage
from targets.errors import InputRefused
from targets.names import choose

# torch's threads meet some hundred thousand times in such a stage. Those that wait shall sleep: spinning, they take the
# cores from the very thread they wait for wherever something else runs, such as the stage beside this one.
TORCH = {**OFFLINE, "OMP_WAIT_POLICY": "PASSIVE"}


def import_stage(call: Call) -> Any:
    """Source -> Model.

    Raises:
        InputRefused: it is no longer the source that the key of this stage was made of.
    """
    from export.model import import_model
    from export.remembered_digests import forget
    from export.source import parse_source

    source, downloads = parse_source(call.arguments["source"]), Path(call.arguments["downloads"])
    model = import_model(source, call.out, downloads, call.progress)
    if model.source != call.parameters["source"]:
        forget(downloads)
        raise InputRefused(f"{call.arguments['source']} changed while the build began", "build again")
    return model


def export_stage(call: Call) -> Any:
    """Model -> hub."""
    from export.hub import export_hub

    return export_hub(call.inputs["model"], call.out)


def hub_of(call: Call) -> Any:
    """The hub a stage takes, told where the model is whose weights its graph points to."""
    return call.inputs["hub"].beside(call.inputs["model"])


def golden_stage(call: Call) -> Any:
    """Hub -> golden reference."""
    from validate.golden import measure_golden
    from validate.plans import GoldenPlan

    return measure_golden(hub_of(call), GoldenPlan(**call.parameters["plan"]), call.out, call.progress)


def calibrate_stage(call: Call) -> Any:
    """Model -> calibration tokens."""
    from quantize.calibration import calibrate
    from quantize.calibration_plan import CalibrationPlan

    text = call.arguments["text"]
    plan = CalibrationPlan(**call.parameters["plan"])
    return calibrate(call.inputs["model"], plan, Path(text) if text else None, call.out, call.progress)


def sensitivity_stage(call: Call) -> Any:
    """Model and calibration tokens -> what each weight costs."""
    from quantize.sensitivity import SensitivityPlan, measure_sensitivity

    model, calibration = call.inputs["model"], call.inputs["calibration"]
    return measure_sensitivity(
        model, calibration, call.parameters["scheme"], SensitivityPlan(), call.out, call.progress
    )


def quantize_stage(call: Call) -> Any:
    """Hub -> quantized hub."""
    from quantize.calibrated import CalibratedInputs
    from quantize.quantizer import quantize_model

    inputs = None
    if "calibration" in call.inputs:
        inputs = CalibratedInputs(call.inputs["model"], call.inputs["calibration"], call.inputs.get("sensitivity"))
    return quantize_model(hub_of(call), call.parameters["recipe"], call.out, call.progress, inputs)


def ranges_stage(call: Call) -> Any:
    """Quantized hub and calibration tokens -> ranges of its activations."""
    from quantize.activation_ranges import measure_ranges

    return measure_ranges(call.inputs["quantized"], call.inputs["calibration"], call.out, call.progress)


def diagnose_stage(call: Call) -> Any:
    """Hub and quantized hub -> which weights are to blame."""
    from quantize.diagnose import write_diagnosis

    tokens = call.inputs["golden"].windows()[0][0]
    return write_diagnosis(hub_of(call), call.inputs["quantized"], tokens, call.out, call.progress)


def experience_stage(call: Call) -> Any:
    """Hub -> what the float model says where users feel a difference."""
    from validate.experience import record_experience
    from validate.plans import ExperiencePlan

    plan, questions = ExperiencePlan(**call.parameters["plan"]), call.arguments["questions"]
    return record_experience(hub_of(call), plan, Path(questions) if questions else None, call.out, call.progress)


def compile_stage(call: Call) -> Any:
    """Quantized hub -> package."""
    from compile.backends import find_backend, find_entry

    backend: Any = find_backend(call.parameters["backend"])
    more = {name: value for name, value in call.inputs.items() if name != "quantized"}
    if find_entry(call.parameters["backend"]).reports:
        more["progress"] = call.progress
    return backend.compile_package(call.inputs["quantized"], call.parameters["options"], call.out, **more)


def prefix_stage(call: Call) -> Any:
    """Package -> the KV state of a prefix."""
    from validate.prompt_cache import make_prompt_cache
    from validate.prompt_prefix import read_prefix

    return make_prompt_cache(call.inputs["package"], read_prefix(Path(call.arguments["file"])), call.out)


def measure_stage(call: Call) -> Any:
    """Package and what the float model says -> measurement."""
    from validate.measure import References, measure_package
    from validate.plans import LatencyPlan

    asked, given = dict(call.parameters["plan"]), call.inputs
    plan = LatencyPlan(prompt_lengths=tuple(asked.pop("prompt_lengths")), **asked)
    references = References(
        given["golden"],
        given.get("experience"),
        given["screened"].fidelity if "screened" in given else None,  # a device has no screen
        given.get("cache"),
        prefix=call.parameters.get("prefix", False),
    )
    return measure_package(given["package"], references, plan, call.out, call.progress)


def screen_stage(call: Call) -> Any:
    """Package and golden reference -> how far its weights are from the float model."""
    from validate.screen import screen_package

    return screen_package(call.inputs["package"], call.inputs["golden"], call.out, call.progress)


def compile_part(parameters: Mapping[str, Any]) -> Part:
    """What a job's back end depends on."""
    from compile.backends import find_entry

    entry = find_entry(parameters["backend"])
    return Part((f"compile.{entry.module}",), entry.tools, entry.compiler())


def measure_part(parameters: Mapping[str, Any]) -> Part:
    """What a job's runtime depends on."""
    from validate.runtime import find_entry

    entry = find_entry(parameters["backend"])
    modules = (f"validate.{entry.module}",)
    return Part((*modules, *loader_modules(parameters["backend"])) if "prefix" in parameters else modules, entry.tools)


def loader_modules(backend: str) -> tuple[str, ...]:
    """Where a state is computed and loaded; () for a runtime that takes none."""
    from validate.prompt_cache import LOADERS

    return (f"validate.{LOADERS[backend][0]}",) if backend in LOADERS else ()


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
        "experience",
        experience_stage,
        "validate.experience",
        "validate.experience:Experience",
        ("onnxruntime", "tokenizers"),
    ),
    Stage(
        "calibrate",
        calibrate_stage,
        "quantize.calibration",
        "quantize.calibration:Calibration",
        ("tokenizers", "torch", "transformers"),
        TORCH,
    ),
    Stage(
        "sensitivity",
        sensitivity_stage,
        "quantize.sensitivity",
        "quantize.sensitivity:Sensitivity",
        ("torch", "transformers"),
        TORCH,
    ),
    Stage(
        "quantize",
        quantize_stage,
        "quantize.quantizer",
        "quantize.quantizer:QuantizedModel",
        ("nncf", "onnx", "onnx-ir", "torch", "transformers"),
        TORCH,
        timeout_s=4 * 3600,
    ),
    Stage(
        "ranges",
        ranges_stage,
        "quantize.activation_ranges",
        "quantize.activation_ranges:ActivationRanges",
        ("onnx", "onnxruntime"),
    ),
    Stage("diagnose", diagnose_stage, "quantize.diagnose", "quantize.diagnose:Diagnosed", ("onnx-ir", "onnxruntime")),
    Stage(
        "compile",
        compile_stage,
        "compile.backends",
        "compile.package:Package",
        (),
        {**OFFLINE, "USE_TORCH": "0"},  # of transformers only the tokenizer is used; torch would take 4 s to import
        timeout_s=4 * 3600,  # AMD Quark's AWQ; every other compiler has a shorter limit of its own
        part=compile_part,
    ),
    Stage("screen", screen_stage, "validate.screen", "validate.screen:Screened", (), part=measure_part),
    Stage(
        "prefix",
        prefix_stage,
        "validate.prompt_cache",
        "validate.prompt_cache:PromptCache",
        ("tokenizers",),
        part=measure_part,
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
