"""The host's loop around static graphs, on the CPU, against the hub that was lowered."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from compile.qnn_graphs import write_sources
from export.parity import HubSession
from quantize.quantizer import QuantizedModel
from targets.errors import InputRefused
from tests.conftest import VARIANTS, Quantized, QuantizedVariants
from tests.tiny_sessions import worst_difference
from validate.static_pipeline import StaticPipeline
from validate.static_session import StaticSession

EXACT = 1e-4
CONTEXT, CHUNK = 48, 16


def open_static(quantized: QuantizedModel, folder: Path) -> StaticSession:
    write_sources(quantized, CONTEXT, {"prefill": CHUNK, "decode": 1}, folder)
    prefill, decode = (
        onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
        for name in ("prefill", "decode")
    )
    return StaticSession(prefill, decode)


class Batched:
    """A static session with the shapes that `worst_difference` feeds."""

    def __init__(self, session: StaticSession) -> None:
        self.session = session

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.session.step(tokens[0])[None]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scheme", ["w8-sym", "w4-asym-g32"])
def test_chunks_and_single_tokens_compute_what_the_hub_does(
    quantized_variants: QuantizedVariants, tmp_path: Path, variant: str, scheme: str
) -> None:
    """24 tokens are a full chunk and one that is half empty."""
    quantized = quantized_variants[variant, scheme]
    assert worst_difference(Batched(open_static(quantized, tmp_path)), quantized) < EXACT


@pytest.fixture(scope="module")
def static(tiny_quantized: Quantized, tmp_path_factory: pytest.TempPathFactory) -> StaticSession:
    return open_static(tiny_quantized["w8-sym"], tmp_path_factory.mktemp("static"))


TOKENS = np.random.default_rng(3).integers(0, 500, CONTEXT)


@pytest.mark.parametrize("lengths", [[1] * 20, [16, 4], [3, 16, 1], [20], [17, 1, 2]])
def test_it_does_not_matter_how_a_sequence_is_cut(static: StaticSession, lengths: list[int]) -> None:
    static.reset()
    whole = static.step(TOKENS[:20])
    static.reset()
    starts = np.cumsum([0, *lengths])
    parts = [static.step(TOKENS[start : start + length]) for start, length in zip(starts, lengths, strict=False)]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=EXACT)


def test_the_last_slot_is_used_and_one_more_token_is_refused(static: StaticSession, tiny_quantized: Quantized) -> None:
    static.reset()
    hub = HubSession(tiny_quantized["w8-sym"].graph, tiny_quantized["w8-sym"].facts)
    np.testing.assert_allclose(static.step(TOKENS), hub.step(TOKENS[None])[0], atol=EXACT)
    with pytest.raises(InputRefused, match=f"{CONTEXT + 1} tokens does not fit the package's {CONTEXT}"):
        static.step(TOKENS[:1])


def test_a_rewound_sequence_goes_on_as_if_the_rest_had_never_been(static: StaticSession) -> None:
    static.reset()
    static.step(TOKENS[:10])
    expected = static.step(TOKENS[20:23])
    static.rewind(10)
    static.step(TOKENS[10:30])
    static.rewind(10)
    np.testing.assert_allclose(static.step(TOKENS[20:23]), expected, atol=EXACT)


def test_padding_is_seen_by_nothing(static: StaticSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ids stand after the last token, the logits and the next ones are the same."""
    static.reset()
    clean = static.step(TOKENS[:5]), static.step(TOKENS[5:6])
    zeros = np.zeros
    monkeypatch.setattr(np, "zeros", lambda shape, kind: zeros(shape, kind) + (shape == (1, CHUNK)) * kind(7))
    static.reset()
    for found, wanted in zip((static.step(TOKENS[:5]), static.step(TOKENS[5:6])), clean, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_the_pipeline_says_what_the_hub_says(static: StaticSession, tiny_quantized: Quantized) -> None:
    quantized = tiny_quantized["w8-sym"]
    pipeline = StaticPipeline(static, quantized.folder)
    prompt = pipeline.encode("The model is small")
    assert pipeline.decode(prompt) == "The model is small"
    hub, tokens, expected = HubSession(quantized.graph, quantized.facts), np.array([prompt], np.int64), []
    for _ in range(6):
        tokens = hub.step(tokens)[:, -1:].argmax(-1)
        expected.append(int(tokens[0, 0]))
    found = pipeline.generate(prompt, 6, stop=False)
    assert list(found.tokens) == expected
    assert (len(found.intervals_s), found.ttft_s > 0) == (5, True)
    pipeline.ends = frozenset(expected[2:3])
    assert list(pipeline.generate(prompt, 6, stop=True).tokens) == expected[: expected.index(expected[2])]
    assert pipeline.chat("The model is small", 3) == pipeline.decode(pipeline.generate(prompt, 3, stop=True).tokens)
