"""What the contract test has to know of each back end: a device's options, the schemes it takes, and how it loads."""

from collections.abc import Mapping
from dataclasses import dataclass, field

CPU_SCHEMES = ("w8-sym", "w8-asym", "w4-sym-g32", "w4-asym-g32", "w4-asym-g64", "w4-asym-cw")


@dataclass(frozen=True)
class Row:
    """One back end.

    Attributes:
        load: Python that loads the package in `sys.argv[1]` with what a device has.
        schemes: what it is tried with.
        usual: the one of them that every architecture is tried with.
        options: of a device it makes packages for.
    """

    load: str
    schemes: tuple[str, ...] = CPU_SCHEMES
    usual: str = "w4-asym-g32"
    options: Mapping[str, str | int] = field(default_factory=dict)


ROWS: dict[str, Row] = {
    "null": Row("import json, sys; json.load(open(sys.argv[1] + '/null.json'))"),
    "onnxruntime": Row("import onnxruntime_genai as g, sys; g.Tokenizer(g.Model(sys.argv[1])).encode('it')"),
    "onnxruntime-webgpu": Row(
        "import onnxruntime_genai as g, sys; c = g.Config(sys.argv[1]); c.clear_providers();"
        "g.Tokenizer(g.Model(c)).encode('it')",
        schemes=("w4-sym-g32",),
        usual="w4-sym-g32",
    ),
    "openvino-gpu": Row(
        "import openvino as o, sys; o.Core().read_model(sys.argv[1] + '/openvino_model.xml')",
        schemes=("w4-sym-g32", "w8-asym"),
        usual="w4-sym-g32",
    ),
    "ryzen-ai": Row(
        "import onnxruntime_genai as g, sys; g.Tokenizer(g.Model(sys.argv[1] + '/oga')).encode('it')",
        schemes=("w4-asym-g32",),
        usual="w4-asym-g32",
    ),
    "openvino-npu": Row(
        "import openvino as o, sys; o.Core().read_model(sys.argv[1] + '/openvino_model.xml')",
        schemes=("w4-sym-cw", "w8-sym"),
        usual="w4-sym-cw",
        options={"npu_platform": "4000"},
    ),
    "qnn": Row(
        "import onnxruntime as o, sys;"
        "o.InferenceSession(sys.argv[1] + '/decode.onnx', providers=['CPUExecutionProvider'])",
        schemes=("w4-sym-g32", "w8-sym"),
        usual="w4-sym-g32",
        options={"soc_model": 60, "htp_arch": 73, "context": 48, "chunk": 16},
    ),
    "openvino": Row("import openvino_genai as g, sys; g.LLMPipeline(sys.argv[1], 'CPU').get_tokenizer().encode('it')"),
}
