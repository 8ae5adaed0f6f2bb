"""A hub in ONNX Runtime that also gives the tensors inside it, and takes float weights in place of quantized ones."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.model import ModelFacts


class TracedHub:
    """A hub whose graph is changed for a run; its files are not."""

    def __init__(self, graph: Path, facts: ModelFacts, weights: Path | None = None) -> None:
        """Read `graph`; `weights` is the folder of its external data, where that is not its own."""
        import onnx

        self.graph = graph
        self.facts = facts
        self.weights = weights or graph.parent
        self.proto = onnx.load(graph, load_external_data=False)

    def run(
        self,
        tokens: NDArray[np.int64],
        wanted: Iterable[str] = (),
        restored: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
        """Run one sequence from an empty cache.

        Args:
            tokens: [n].
            wanted: names of tensors inside the graph.
            restored: linear weights [out, in] by name, which take the place of quantized ones.

        Returns:
            Logits [n, vocab], and each wanted tensor as [n, features].
        """
        names = list(wanted)
        weights = {f"{name}.transposed": np.ascontiguousarray(weight.T) for name, weight in (restored or {}).items()}
        session = self.session(names, list(weights))
        feeds = self.feeds(session, tokens) | {f"{name}.restored": weight for name, weight in weights.items()}
        logits, *found = session.run(["logits", *names], feeds)
        inside = {name: value.reshape(-1, value.shape[-1]) for name, value in zip(names, found, strict=True)}
        return np.asarray(logits[0], np.float32), inside

    def session(self, outputs: list[str], inputs: list[str]) -> Any:
        """The graph with more outputs, and with the tensors named `inputs` fed from outside."""
        import onnx
        import onnxruntime

        model = onnx.ModelProto()
        model.CopyFrom(self.proto)
        for name in outputs:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        for name in inputs:
            model.graph.input.append(
                onnx.helper.make_tensor_value_info(f"{name}.restored", onnx.TensorProto.FLOAT, None)
            )
            for node in model.graph.node:
                for position, read in enumerate(node.input):
                    if read == name:
                        node.input[position] = f"{name}.restored"
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(self.weights))
        # A session runs once: packed weights would be copies, and one kept tensor would keep the whole arena.
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def feeds(self, session: Any, tokens: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """The inputs of one sequence without a past."""
        empty = np.zeros((1, self.facts.n_kv_heads, 0, self.facts.head_dim), np.float32)
        past = {value.name: empty for value in session.get_inputs() if value.name.startswith("past_key_values.")}
        return {
            "input_ids": tokens[None],
            "attention_mask": np.ones((1, len(tokens)), np.int64),
            "position_ids": np.arange(len(tokens), dtype=np.int64)[None],
            **past,
        }
