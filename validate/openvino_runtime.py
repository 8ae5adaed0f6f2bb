"""OpenVINO: packages through openvino_genai.LLMPipeline, logits through the same model file."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from targets.status import Status
from validate.measurement import Placement
from validate.runtime import DEPLOYED, Coverage, Generation

DEVICE = "CPU"
MODEL = "openvino_model.xml"
EMPTY_PROMPT = "chat template resulted in an empty string"

# Everything the plugin would compute in fewer bits, pinned: what is left is the weights' own error.
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0", "KV_CACHE_PRECISION": "f32"}

# Chosen by the pipeline, not a property of the compiled model.
PIPELINE_ONLY = frozenset({"ATTENTION_BACKEND"})


class OpenVino:
    """The CPU plugin."""

    evidence: Status | None = None
    coverage: Coverage | None = None

    def session(self, package: Path, settings: Mapping[str, Any], setting: str) -> "OpenVinoSession":
        """Compile the package's model with the shipped properties, or pinned to float32."""
        properties = {name: value for name, value in settings.items() if name not in PIPELINE_ONLY}
        return OpenVinoSession(package, properties if setting == DEPLOYED else {**properties, **FLOAT32})

    def pipeline(self, package: Path, settings: Mapping[str, Any]) -> "OpenVinoPipeline":
        """Load the package as a product would."""
        return OpenVinoPipeline(package, settings)

    def placement(self, package: Path, settings: Mapping[str, Any]) -> tuple[Placement, ...]:
        """Ask the compiled model where it runs."""
        import openvino as ov

        properties = {name: value for name, value in settings.items() if name not in PIPELINE_ONLY}
        return (read_placement(ov.Core().compile_model(package / MODEL, DEVICE, properties), "model", DEVICE),)

    def versions(self) -> dict[str, str]:
        """Versions of the runtime's wheels."""
        return {name: version(name) for name in ("openvino", "openvino-genai", "openvino-tokenizers")}


def read_placement(compiled: Any, session: str, requested: str) -> Placement:
    """What a compiled model says of its devices.

    OpenVINO compiles a whole model for one device, or names several when it cut it up; then each has all of it.
    """
    operators = compiled.get_runtime_model().get_ops()
    stored = [port for node in operators if is_constant(node) for port in node.outputs()]
    held = sum(int(np.prod(port.get_shape())) * port.get_element_type().bitwidth // 8 for port in stored)
    devices = compiled.get_property("EXECUTION_DEVICES")
    return Placement(session, requested, dict.fromkeys(devices, len(operators)), dict.fromkeys(devices, held))


def is_constant(node: Any) -> bool:
    """Whether a node of a runtime model is a stored weight."""
    kind = node.get_rt_info()["layerType"]
    return str(kind if isinstance(kind, str) else kind.astype(str)) == "Const"


class OpenVinoSession:
    """A stateful decoder, one sequence."""

    def __init__(self, package: Path, properties: Mapping[str, Any]) -> None:
        import openvino as ov

        self.request = ov.Core().compile_model(package / MODEL, DEVICE, dict(properties)).create_infer_request()
        self.length = 0
        self.seen: NDArray[np.int64] = np.zeros(0, np.int64)

    def reset(self) -> None:
        """Forget the sequence."""
        self.request.reset_state()
        self.length = 0
        self.seen = np.zeros(0, np.int64)

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens.

        They stay in the KV cache, masked: writing a shortened cache back would quantize it a second time.
        """
        kept = np.flatnonzero(self.seen)[:length]
        self.seen = np.zeros_like(self.seen)
        self.seen[kept] = 1
        self.length = length

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits [n, vocab] of the next n tokens [n]."""
        start, self.length = self.length, self.length + len(tokens)
        self.seen = np.append(self.seen, np.ones(len(tokens), np.int64))
        result = self.request.infer(
            {
                "input_ids": tokens[None],
                "attention_mask": self.seen[None],
                "position_ids": np.arange(start, self.length, dtype=np.int64)[None],
                "beam_idx": np.zeros(1, np.int32),
            }
        )
        return np.array(result["logits"][0], dtype=np.float32)


class OpenVinoPipeline:
    """openvino_genai.LLMPipeline."""

    def __init__(self, package: Path, settings: Mapping[str, Any]) -> None:
        import openvino_genai

        self.pipeline = openvino_genai.LLMPipeline(str(package), DEVICE, **settings)

    def generate(self, prompt: Sequence[int], new_tokens: int, stop: bool) -> Generation:
        """Greedy tokens after `prompt`, timed by the pipeline's own clock."""
        import openvino as ov

        ids = np.array([list(prompt)], dtype=np.int64)
        result = self.pipeline.generate(
            ov.Tensor(ids), max_new_tokens=new_tokens, ignore_eos=not stop, do_sample=False, apply_chat_template=False
        )
        metrics = result.perf_metrics
        ends = self.pipeline.get_generation_config().stop_token_ids if stop else set()
        tokens = [int(token) for token in result.tokens[0]]
        while tokens and tokens[-1] in ends:
            tokens.pop()
        intervals = [float(duration) / 1e6 for duration in metrics.raw_metrics.m_durations]
        return Generation(tuple(tokens), metrics.get_ttft().mean / 1e3, tuple(intervals))

    def encode(self, text: str) -> list[int]:
        """Ids by the tokenizer IR."""
        encoded = self.pipeline.get_tokenizer().encode(text, add_special_tokens=False)
        return [int(token) for token in encoded.input_ids.data[0]]

    def decode(self, ids: Sequence[int]) -> str:
        """Text by the detokenizer IR, special tokens left out."""
        return str(self.pipeline.get_tokenizer().decode(list(ids), skip_special_tokens=True))

    def apply_template(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> str:
        """The prompt of a conversation by the pipeline's own template engine."""
        tokenizer = self.pipeline.get_tokenizer()
        try:
            prompt = tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                add_generation_prompt=True,
                tools=None if tools is None else [dict(tool) for tool in tools],
            )
        except RuntimeError as error:
            if EMPTY_PROMPT not in str(error):
                raise
            return ""  # what the template says too: OpenVINO GenAI refuses to hand it out
        return str(prompt)

    def write_json(self, prompt: Sequence[int], schema: str, new_tokens: int) -> str:
        """Greedy text after `prompt` that the runtime's own grammar engine keeps to a JSON Schema."""
        import openvino as ov
        import openvino_genai

        config = self.pipeline.get_generation_config()
        config.max_new_tokens, config.do_sample, config.apply_chat_template = new_tokens, False, False
        config.structured_output_config = openvino_genai.StructuredOutputConfig(json_schema=schema)
        result = self.pipeline.generate(ov.Tensor(np.array([list(prompt)], dtype=np.int64)), config)
        return self.decode([int(token) for token in result.tokens[0]])

    def chat(self, user: str, new_tokens: int) -> str:
        """One turn through the chat template."""
        # A plain request: generate(ChatHistory) after other requests ends the process (2026.4.1).
        return str(self.pipeline.generate(user, max_new_tokens=new_tokens, do_sample=False))
