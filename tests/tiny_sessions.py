"""Run a package token by token, computing in float32, whatever its runtime."""

import shutil
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compile.package import Package
from export.parity import HubSession
from quantize.quantizer import QuantizedModel
from validate.onnx_positions import with_all_positions

FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0, "KV_CACHE_PRECISION": "f32"}


class Session(Protocol):
    """One sequence, the KV cache carried from step to step."""

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits [1, n, vocab] of the next `n` tokens [1, n]."""
        ...


class OpenVinoSession:
    """The stateful IR of a package."""

    def __init__(self, folder: Path) -> None:
        import openvino as ov

        self.request = ov.Core().compile_model(folder / "openvino_model.xml", "CPU", FLOAT32).create_infer_request()
        self.length = 0

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        start, self.length = self.length, self.length + tokens.shape[1]
        feeds = {
            "input_ids": tokens,
            "attention_mask": np.ones((1, self.length), np.int64),
            "position_ids": np.arange(start, self.length, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        return np.array(self.request.infer(feeds)["logits"], np.float32)


class GenAiSession:
    """A package in onnxruntime_genai, its kernels told to multiply in float32 and its head to read all positions."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        import onnxruntime_genai

        with_accuracy_level(folder, 1, scratch)
        self.model: Any = onnxruntime_genai.Model(str(scratch))
        parameters = onnxruntime_genai.GeneratorParams(self.model)
        parameters.set_search_options(max_length=128, do_sample=False)
        self.generator = onnxruntime_genai.Generator(self.model, parameters)

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        self.generator.append_tokens(tokens[0].astype(np.int32))
        return np.array(self.generator.get_output("logits"), np.float32)


def with_accuracy_level(folder: Path, level: int, out: Path) -> None:
    """Copy an ONNX Runtime package with every MatMulNBits at another accuracy level."""
    import onnx

    shutil.copytree(folder, out, dirs_exist_ok=True)
    graph = out / "model.onnx"
    graph.write_bytes(with_all_positions(graph.read_bytes()))
    model = onnx.load(graph, load_external_data=False)
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    levels = [attribute for attribute in attributes if attribute.name == "accuracy_level"]
    assert levels
    for attribute in levels:
        attribute.i = level
    onnx.save(model, graph)


def open_session(package: Package, scratch: Path) -> Session:
    """The package in the runtime it is for."""
    if package.backend == "openvino":
        return OpenVinoSession(package.folder)
    return GenAiSession(package.folder, scratch)


def worst_difference(session: Session, quantized: QuantizedModel, steps: int = 4) -> float:
    """The largest absolute difference to the quantized hub's logits over one prefill and `steps` greedy steps."""
    hub = HubSession(quantized.graph, quantized.facts)
    tokens = np.random.default_rng(5).integers(0, quantized.facts.vocab_size, (1, 24), dtype=np.int64)
    worst = 0.0
    for _ in range(1 + steps):
        expected, found = hub.step(tokens), session.step(tokens)
        worst = max(worst, float(np.abs(expected - found).max()))
        tokens = expected[:, -1:].argmax(-1)
    return worst
