"""ONNX Runtime: packages through onnxruntime_genai, which also gives the logits."""

import functools
import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from targets.errors import StageFailed
from targets.status import Status
from validate.graph_assignment import RECORD, read_assignment
from validate.measurement import Placement
from validate.onnx_cache import with_float_cache
from validate.onnx_graph import weight_bytes
from validate.onnx_positions import with_all_positions
from validate.runtime import WEIGHTS, Coverage, Generation

# From a serialized graph to another one.
Change = Callable[[bytes], bytes]

GRAPH = "model.onnx"
PROVIDER = "CPUExecutionProvider"
WINDOW_ROOM = 1024  # the shared KV buffers are as long as max_length says; every golden window fits in these
ROOM = 8  # tokens of KV cache beyond what a measurement needs

# A protobuf AttributeProto as it is written: name (field 1), then i (field 3) as a varint of one byte.
ATTRIBUTE = b"\x0a\x0eaccuracy_level\x18"
FLOAT32_LEVEL = 1


class OnnxRuntime:
    """The CPU execution provider."""

    evidence: Status | None = None
    coverage: Coverage | None = None

    def session(self, package: Path, settings: Mapping[str, Any], setting: str) -> "OnnxRuntimeSession":
        """Load the package as it ships, or a copy that multiplies in float32."""
        if setting != WEIGHTS:
            return OnnxRuntimeSession(package)
        shipped = int(settings["accuracy_level"])
        return OnnxRuntimeSession(
            package, (lambda graph: with_accuracy_level(graph, shipped, FLOAT32_LEVEL), with_float_cache)
        )

    def pipeline(self, package: Path, settings: Mapping[str, Any]) -> "OnnxRuntimePipeline":
        """Load the package as a product would."""
        return OnnxRuntimePipeline(package)

    def placement(self, package: Path, settings: Mapping[str, Any]) -> tuple[Placement, ...]:
        """Read from a session which provider each operator was given to."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.add_session_config_entry(RECORD, "1")
        session = onnxruntime.InferenceSession(package / GRAPH, options, providers=[PROVIDER])
        return (read_assignment(session, "model", PROVIDER, weight_bytes(package / GRAPH)),)

    def versions(self) -> dict[str, str]:
        """Versions of the runtime's wheels."""
        return {name: version(name) for name in ("onnxruntime", "onnxruntime-genai")}


def with_accuracy_level(graph: bytes, shipped: int, level: int) -> bytes:
    """A serialized graph with every MatMulNBits at another accuracy level.

    Written on the bytes because a device has no onnx package; the length does not change.

    Raises:
        StageFailed: no MatMulNBits with the shipped level is there.
    """
    old, new = ATTRIBUTE + bytes([shipped]), ATTRIBUTE + bytes([level])
    if old not in graph:
        raise StageFailed(f"no MatMulNBits of accuracy level {shipped} in the package", "build the package again")
    return graph.replace(old, new)


class OnnxRuntimeSession:
    """A generator used for its logits, one sequence."""

    def __init__(self, package: Path, changes: Sequence[Change] = ()) -> None:
        """Load a package, its head over all positions, or a copy with `changes` made to its graph as well."""
        import onnxruntime_genai

        self.genai = onnxruntime_genai
        graph = package / GRAPH
        stored = graph.read_bytes() if graph.is_file() else b""
        changed = functools.reduce(lambda data, change: change(data), changes, with_all_positions(stored))
        if changed == stored:
            self.model = onnxruntime_genai.Model(str(package))
        else:
            with tempfile.TemporaryDirectory() as copy:
                shutil.copytree(package, copy, dirs_exist_ok=True, copy_function=shutil.copyfile)
                (Path(copy) / GRAPH).chmod(0o600)
                (Path(copy) / GRAPH).write_bytes(changed)
                self.model = onnxruntime_genai.Model(copy)
        context = json.loads((package / "genai_config.json").read_text())["model"]["context_length"]
        self.capacity = min(int(context), WINDOW_ROOM)
        self.generator: Any = None

    def reset(self) -> None:
        """Forget the sequence."""
        self.generator = None

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        if self.generator is not None:
            self.generator.rewind_to(length)

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits [n, vocab] of the next n tokens [n]."""
        if self.generator is None:
            self.generator = new_generator(self.genai, self.model, self.capacity, 0)
        self.generator.append_tokens(tokens.astype(np.int32))
        return np.array(self.generator.get_output("logits")[0], dtype=np.float32)


class OnnxRuntimePipeline:
    """onnxruntime_genai's generator and tokenizer."""

    def __init__(self, package: Path) -> None:
        import onnxruntime_genai

        self.genai = onnxruntime_genai
        self.model = onnxruntime_genai.Model(str(package))
        self.tokenizer = onnxruntime_genai.Tokenizer(self.model)
        self.ends = frozenset(int(token) for token in np.atleast_1d(self.tokenizer.eos_token_ids))

    def generate(self, prompt: Sequence[int], new_tokens: int, stop: bool) -> Generation:
        """Greedy tokens after `prompt`, timed around the calls a product makes."""
        length = len(prompt) + new_tokens
        generator = new_generator(self.genai, self.model, length + ROOM, 0 if stop else length)
        tokens: list[int] = []
        times: list[float] = []
        start = time.perf_counter()
        generator.append_tokens(np.array(prompt, dtype=np.int32))
        while len(tokens) < new_tokens and not generator.is_done():
            generator.generate_next_token()
            times.append(time.perf_counter())
            tokens.append(int(generator.get_next_tokens()[0]))
        if stop and tokens and tokens[-1] in self.ends:
            tokens.pop()
        intervals = tuple(after - before for before, after in itertools.pairwise(times))
        return Generation(tuple(tokens), times[0] - start, intervals)

    def encode(self, text: str) -> list[int]:
        """Ids by the package's tokenizer."""
        return [int(token) for token in self.tokenizer.encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text by the package's tokenizer, special tokens left out."""
        return str(self.tokenizer.decode(np.array(list(ids), dtype=np.int32)))

    def apply_template(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> str:
        """The prompt of a conversation by the package's own template engine."""
        given = {} if tools is None else {"tools": json.dumps(list(tools), ensure_ascii=False)}
        text = json.dumps(list(messages), ensure_ascii=False)
        return str(self.tokenizer.apply_chat_template(messages=text, add_generation_prompt=True, **given))

    def write_json(self, prompt: Sequence[int], schema: str, new_tokens: int) -> str:
        """Greedy text after `prompt` that the runtime's own grammar engine keeps to a JSON Schema."""
        parameters = self.genai.GeneratorParams(self.model)
        parameters.set_search_options(max_length=len(prompt) + new_tokens + ROOM, do_sample=False)
        parameters.set_guidance("json_schema", schema)
        generator = self.genai.Generator(self.model, parameters)
        generator.append_tokens(np.array(prompt, dtype=np.int32))
        tokens: list[int] = []
        while len(tokens) < new_tokens and not generator.is_done():
            generator.generate_next_token()
            tokens.append(int(generator.get_next_tokens()[0]))
        return self.decode(tokens)

    def chat(self, user: str, new_tokens: int) -> str:
        """One turn through the chat template."""
        messages = json.dumps([{"role": "user", "content": user}])
        prompt = self.encode(self.tokenizer.apply_chat_template(messages=messages, add_generation_prompt=True))
        return str(self.tokenizer.decode(np.array(self.generate(prompt, new_tokens, stop=True).tokens, dtype=np.int32)))


def new_generator(genai: Any, model: Any, max_length: int, min_length: int) -> Any:
    """A greedy generator with a KV cache of `max_length` tokens."""
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=max_length, min_length=min_length, do_sample=False)
    return genai.Generator(model, parameters)
