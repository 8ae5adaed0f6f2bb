"""Logits of the last position alone: the same numbers as those of all positions have in their last row."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from compile.last_position import CHOICE, keep_last_position
from export.hub import OnnxModel
from targets.errors import StageFailed
from tests.conftest import Packages
from validate.onnx_positions import with_all_positions
from validate.onnxruntime_runtime import OnnxRuntimeSession, new_generator

PROMPTS = ["The model is small, and so is this text", "Two words"]
CASES = [("llama", "w8-sym"), ("untied", "w4-asym-g32"), ("qwen3", "w8-sym")]


def onnxruntime_ids(folder: Path, text: str) -> list[int]:
    import onnxruntime_genai

    return [int(token) for token in onnxruntime_genai.Tokenizer(onnxruntime_genai.Model(str(folder))).encode(text)]


def shipped_logits(folder: Path, prompts: list[str], steps: int) -> list[NDArray[np.float32]]:
    """Logits [batch, rows, vocab] as a product gets them: of prompts that the runtime pads, and of greedy steps."""
    import onnxruntime_genai

    model = onnxruntime_genai.Model(str(folder))
    parameters = onnxruntime_genai.GeneratorParams(model)
    parameters.set_search_options(max_length=64, min_length=64, batch_size=len(prompts), do_sample=False)
    generator = onnxruntime_genai.Generator(model, parameters)
    generator.append_tokens(onnxruntime_genai.Tokenizer(model).encode_batch(prompts))
    found = [np.array(generator.get_output("logits"))]
    for _ in range(steps):
        generator.generate_next_token()
        found.append(np.array(generator.get_output("logits")))
    return found


@pytest.mark.parametrize(("variant", "scheme"), CASES)
def test_the_last_row_is_that_of_all_positions(tiny_packages: Packages, variant: str, scheme: str) -> None:
    folder = tiny_packages[variant, scheme, "onnxruntime"].folder
    session = OnnxRuntimeSession(folder)
    whole = session.step(np.array(onnxruntime_ids(folder, PROMPTS[0])))
    first = shipped_logits(folder, PROMPTS[:1], 0)[0]
    assert first.shape == (1, 1, whole.shape[1])
    np.testing.assert_allclose(first[0, 0], whole[-1], rtol=0, atol=1e-5)
    assert np.abs(first[0, 0] - whole[-2]).max() > 1e-2


def test_each_of_several_sequences_has_its_own_last_row(tiny_packages: Packages) -> None:
    """Padding is on the right: the shorter prompt's last token is not in the last row."""
    folder = tiny_packages["llama", "w8-sym", "onnxruntime"].folder
    both = shipped_logits(folder, PROMPTS, 3)
    for place, prompt in enumerate(PROMPTS):
        for together, alone in zip(both, shipped_logits(folder, [prompt], 3), strict=True):
            np.testing.assert_allclose(together[place], alone[0], rtol=0, atol=1e-4)


def test_the_head_is_given_one_row_a_sequence(tiny_packages: Packages) -> None:
    graph = onnx.load(tiny_packages["llama", "w8-sym", "onnxruntime"].folder / "model.onnx", load_external_data=False)
    assert [node.name for node in graph.graph.node].count(CHOICE) == 1
    logits = next(value for value in graph.graph.output if value.name == "logits")
    assert [size.dim_value for size in logits.type.tensor_type.shape.dim][1:] == [1, 511]


def test_a_step_of_several_tokens_after_others_gives_its_last(tiny_packages: Packages) -> None:
    import onnxruntime_genai

    folder = tiny_packages["llama", "w8-sym", "onnxruntime"].folder
    session = OnnxRuntimeSession(folder)
    session.step(np.arange(20, 30))
    whole = session.step(np.arange(70, 75))
    model = onnxruntime_genai.Model(str(folder))
    generator = new_generator(onnxruntime_genai, model, 64, 0)
    generator.append_tokens(np.arange(20, 30, dtype=np.int32))
    generator.append_tokens(np.arange(70, 75, dtype=np.int32))
    np.testing.assert_allclose(generator.get_output("logits")[0, 0], whole[-1], rtol=0, atol=1e-5)


def test_the_rewritten_graph_is_sound_and_any_other_stays(tiny_packages: Packages, tiny_hub: OnnxModel) -> None:
    folder = tiny_packages["llama", "w8-sym", "onnxruntime"].folder
    rewritten = with_all_positions((folder / "model.onnx").read_bytes())
    model = onnx.load_model_from_string(rewritten)
    passed = next(node for node in model.graph.node if node.name == CHOICE)
    assert (passed.op_type, len(passed.input), len(passed.attribute)) == ("Identity", 1, 0)
    assert with_all_positions(tiny_hub.graph.read_bytes()) == tiny_hub.graph.read_bytes()


def test_logits_that_no_head_computes_are_refused() -> None:
    text = '<ir_version: 8, opset_import: ["" : 23]> g (float[1, 2, 3] logits) => (float[1, 2, 3] logits) { }'
    with pytest.raises(StageFailed, match="not computed by a head"):
        keep_last_position(ir.from_proto(onnx.parser.parse_model(text)))
