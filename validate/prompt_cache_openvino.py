"""A prompt cache through OpenVINO: the state becomes what the model's KV cache starts with.

OpenVINO GenAI has no call that loads a state. Every state of the model has an initial value, though, which a reset goes
back to: with the prefix's keys and values there, a mask that also covers them and positions that begin after them, the
unchanged `LLMPipeline` reads the user's words alone.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from targets.errors import StageFailed
from validate.openvino_runtime import DEVICE, MODEL, PIPELINE_ONLY, OpenVinoPipeline, OpenVinoSession

# Keys and values before the plugin rounds them: it rounds them when it loads them, to the bits it would have stored.
UNROUNDED = {"KV_CACHE_PRECISION": "f32"}
PARTS = ("key", "value")


class OpenVinoLoader:
    """OpenVINO's CPU plugin."""

    def compute_state(self, folder: Path, settings: Mapping[str, Any], tokens: Sequence[int]) -> NDArray[np.float32]:
        """The state after `tokens`, [layers, 2, KV heads, tokens, head size] float32."""
        session = OpenVinoSession(folder, compiled_properties({**settings, **UNROUNDED}))
        session.reset()
        session.step(np.array(tokens, np.int64))
        states = {place_of(state.name): state.state.data for state in session.request.query_state()}
        layers = max(layer for layer, _ in states) + 1
        stored = [[np.array(states[layer, part][0], np.float32) for part in range(2)] for layer in range(layers)]
        return np.array(stored)

    def cached_session(self, folder: Path, settings: Mapping[str, Any], state: NDArray[Any]) -> "CachedSession":
        """Logits of what follows the prefix."""
        return CachedSession(folder, settings, state)

    def cached_pipeline(self, folder: Path, settings: Mapping[str, Any], state: NDArray[Any]) -> "CachedPipeline":
        """OpenVINO GenAI's own pipeline, begun after the prefix."""
        return CachedPipeline(folder, settings, state)


LOADER = OpenVinoLoader()


def compiled_properties(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A package's settings without those that only the pipeline knows."""
    return {name: value for name, value in settings.items() if name not in PIPELINE_ONLY}


def place_of(variable: str) -> tuple[int, int]:
    """(layer, 0 for keys and 1 for values) of `past_key_values.7.keypresent.7.key`."""
    _, layer, part = variable.split(".")[:3]
    return int(layer), next(place for place, name in enumerate(PARTS) if part.startswith(name))


def begin_after(model: Any, state: NDArray[Any]) -> None:
    """Let every state of `model` begin with the prefix's keys and values, and shift mask and positions, in place.

    The initial value is a Broadcast to the batch, not the constant itself: the plugin writes later tokens into a
    constant's own memory, and the second request would begin with the first one's words.

    Raises:
        StageFailed: the state has other layers or sizes than the model.
    """
    from openvino import opset13

    length = state.shape[3]
    shape = opset13.shape_of(model.input("input_ids"), output_type="i64")
    batch = opset13.gather(shape, opset13.constant(np.array([0], np.int64)), opset13.constant(np.int64(0)))
    found = [node for node in model.get_ops() if node.get_type_name() == "ReadValue"]
    for node in found:
        layer, part = place_of(node.get_attributes()["variable_id"])
        sizes = [size.get_length() if size.is_static else -1 for size in node.get_output_partial_shape(0)]
        if len(found) != 2 * state.shape[0] or [sizes[1], sizes[3]] != [state.shape[2], state.shape[4]]:
            raise StageFailed(f"a state of shape {state.shape} is not of this model", "build the bundle again")
        values = np.ascontiguousarray(state[layer, part][None], np.float32)
        dimensions = opset13.concat([batch, opset13.constant(np.array(values.shape[1:], np.int64))], 0)
        node.set_arguments([opset13.broadcast(opset13.constant(values), dimensions).output(0)])
    replace_input(model.input("attention_mask"), lambda mask: opset13.concat([covered(mask, length), mask], 1))
    replace_input(model.input("position_ids"), lambda ids: opset13.add(ids, opset13.constant(np.int64(length))))
    model.validate_nodes_and_infer_types()


def replace_input(port: Any, change: Callable[[Any], Any]) -> None:
    """Give all that read an input what `change` makes of it."""
    readers = list(port.get_target_inputs())
    changed = change(port)
    for reader in readers:
        reader.replace_source_output(changed.output(0))


def covered(mask: Any, length: int) -> Any:
    """Ones of [batch, length] for the tokens of the prefix."""
    from openvino import opset13

    first = opset13.gather(
        opset13.shape_of(mask, output_type="i64"), opset13.constant(np.array([0], np.int64)), opset13.constant(0)
    )
    target = opset13.concat([first, opset13.constant(np.array([length], np.int64))], 0)
    return opset13.broadcast(opset13.constant(np.int64(1)), target)


class CachedSession(OpenVinoSession):
    """A stateful decoder whose sequence begins after the prefix."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], state: NDArray[Any]) -> None:
        import openvino as ov

        core = ov.Core()
        model = core.read_model(folder / MODEL)
        begin_after(model, state)
        self.request = core.compile_model(model, DEVICE, compiled_properties(settings)).create_infer_request()
        self.length = 0
        self.seen: NDArray[np.int64] = np.zeros(0, np.int64)


class CachedPipeline(OpenVinoPipeline):
    """openvino_genai.LLMPipeline whose sequences begin after the prefix."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], state: NDArray[Any]) -> None:
        self.pipeline = genai_pipeline(folder, settings, state)


def genai_pipeline(folder: Path, settings: Mapping[str, Any], state: NDArray[Any]) -> Any:
    """An `openvino_genai.LLMPipeline` over the package in `folder` that begins after the prefix."""
    import openvino as ov
    import openvino_genai

    model = ov.Core().read_model(folder / MODEL)
    begin_after(model, state)
    with tempfile.TemporaryDirectory() as scratch:
        graph, weights = Path(scratch) / MODEL, Path(scratch) / "openvino_model.bin"
        ov.serialize(model, graph, weights)
        text, data = graph.read_text(encoding="utf-8"), ov.Tensor(np.fromfile(weights, np.uint8))
    config = openvino_genai.GenerationConfig(str(folder / "generation_config.json"))
    return openvino_genai.LLMPipeline(
        text, data, openvino_genai.Tokenizer(str(folder)), DEVICE, generation_config=config, **settings
    )
