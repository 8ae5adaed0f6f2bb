"""The graph that the HTP gets: which operators, and that no rule is kept by chance."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from compile import qnn_lowering
from compile.attention import find_attentions
from compile.qnn_graphs import write_sources
from compile.qnn_lowering import StaticShape, lower_for_htp
from compile.qnn_rules import check_graph
from compile.rotary import rotary_tables
from quantize.quantizer import QuantizedModel
from targets.errors import StageFailed
from tests.conftest import VARIANTS, Quantized, QuantizedVariants

SHAPE = StaticShape(tokens=16, context=48)


def lower(quantized: QuantizedModel, change: Callable[[ir.Model], None] = lambda hub: None) -> ir.Model:
    """The prefill graph of a hub that was changed first."""
    hub = ir.load(quantized.graph)
    tables = rotary_tables(hub, find_attentions(hub)[0], 64)
    change(hub)
    lower_for_htp(hub, quantized.facts, SHAPE, tables)
    return hub


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scheme", ["w8-sym", "w4-asym-g32"])
def test_every_architecture_keeps_every_rule(quantized_variants: QuantizedVariants, variant: str, scheme: str) -> None:
    lowered = lower(quantized_variants[variant, scheme])
    check_graph(lowered, "prefill")
    found = [node.op_type for node in lowered.graph]
    assert (found.count("Attention"), found.count("RotaryEmbedding"), found.count("MatMulNBits")) == (2, 4, 15)
    assert found.count("RMSNormalization") == (9 if variant == "qwen3" else 5)
    assert not {"Softmax", "MatMul", "Pow", "ReduceMean", "Where", "Shape", "Range", "Cos", "Sin"} & set(found)
    # Only around the rows of the embedding table, where codes must look quantized.
    assert found.count("DequantizeLinear") == 2


def test_the_mask_hides_by_a_finite_number(tiny_quantized: Quantized, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding and later tokens add up to twice the number, which float16 must hold."""
    mask = lower(tiny_quantized["w8-sym"]).graph.initializers["mask.later"].const_value
    assert mask is not None
    assert mask.shape == (1, 1, 16, 64)
    assert (mask.numpy()[0, 0, :, :48] == 0).all()
    np.testing.assert_array_equal(mask.numpy()[0, 0, :, 48:] == 0, np.tril(np.ones((16, 16))) > 0)
    assert 2 * mask.numpy().min() > np.finfo(np.float16).min
    for hidden in (-np.inf, -3.4e38, -65504.0):
        monkeypatch.setattr(qnn_lowering, "HIDDEN", hidden)
        with np.errstate(invalid="ignore"), pytest.raises(StageFailed, match=r"unbounded constant: constant mask\."):
            check_graph(lower(tiny_quantized["w8-sym"]), "prefill")


def test_normalised_heads_are_one_list(quantized_variants: QuantizedVariants, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left as the hub has them, the norms of queries and keys see two wide dimensions."""
    quantized = quantized_variants["qwen3", "w8-sym"]
    constant = qnn_lowering.constant

    def as_in_the_hub(graph: ir.Graph, name: str, sizes: tuple[int, ...]) -> ir.Value:
        return constant(
            graph, name.removesuffix(".list"), (1, 16, 4 if "4x" in name else 2, 32) if ".list" in name else sizes
        )

    monkeypatch.setattr(qnn_lowering, "constant", as_in_the_hub)
    with pytest.raises(StageFailed, match=r"wide RMSNormalization: .* and 3 more"):
        check_graph(lower(quantized), "prefill")


def write_a_norm_by_hand(hub: ir.Model) -> None:
    """Put `x * rsqrt(mean(x^2))` in place of the last norm."""
    norm = [node for node in hub.graph if node.op_type == "RMSNormalization"][-1]
    given = norm.inputs[0]
    square = ir.node("Mul", [given, given], name="square")
    mean = ir.node("ReduceMean", [square.outputs[0]], {"keepdims": 1}, name="mean")
    root = ir.node("Sqrt", [mean.outputs[0]], name="root")
    whole = ir.node("Div", [given, root.outputs[0]], name="whole")
    ir.convenience.replace_nodes_and_values(
        hub.graph, norm, [norm], [square, mean, root, whole], list(norm.outputs), list(whole.outputs)
    )


def leave_a_length_open(hub: ir.Model) -> None:
    """Let the last norm's input depend on a length that no one fixes."""
    norm = [node for node in hub.graph if node.op_type == "RMSNormalization"][-1]
    given = norm.inputs[0]
    chosen = ir.node("NonZero", [given], name="chosen")
    cast = ir.node("Cast", [chosen.outputs[0]], {"to": ir.DataType.FLOAT.value}, name="cast")
    total = ir.node("ReduceSum", [cast.outputs[0]], {"keepdims": 0}, name="total")
    moved = ir.node("Add", [given, total.outputs[0]], name="moved")
    hub.graph.insert_before(norm, [chosen, cast, total, moved])
    norm.replace_input_with(0, moved.outputs[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (write_a_norm_by_hand, "refused operator: ReduceMean mean"),
        (leave_a_length_open, "symbolic shape: NonZero chosen"),
    ],
)
def test_a_hub_that_breaks_a_rule_is_refused_before_the_compiler_sees_it(
    tiny_quantized: Quantized, tmp_path: Path, change: Callable[[ir.Model], None], said: str
) -> None:
    quantized = tiny_quantized["w8-sym"]
    hub = ir.load(quantized.graph)
    change(hub)
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    ir.save(hub, tmp_path / "in" / "model.onnx", external_data="model.onnx.data")
    changed = QuantizedModel(**{**vars(quantized), "folder": tmp_path / "in"})
    with pytest.raises(StageFailed, match=f"the prefill graph is not for the HTP:\n  {said}"):
        write_sources(changed, 48, {"prefill": 16, "decode": 1}, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
