"""Each rule of the HTP: what it refuses, and that the simulator really goes wrong where it is not kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx_ir.passes import common

from compile.qnn_options import HEXAGON_OF, check_device
from compile.qnn_rules import check_graph
from targets.errors import StageFailed, UsageError
from tests.htp_simulator import Simulated, needs_htp, parse, simulate

GOOD = 5e-3  # of the largest magnitude: what float16 costs
Arrays = Mapping[str, NDArray[Any]]
random = np.random.default_rng(1)


def normal(*shape: int) -> NDArray[np.float32]:
    return random.normal(0, 1, shape).astype(np.float32)


@dataclass(frozen=True)
class Fragment:
    """A graph that breaks a rule, or is the way to write the same without breaking it."""

    text: str
    constants: Arrays = field(default_factory=dict)
    feeds: Arrays = field(default_factory=dict)

    def model(self) -> ir.Model:
        model = ir.from_proto(parse(self.text, self.constants))
        common.ShapeInferencePass()(model)
        return model

    def run(self) -> Simulated:
        return simulate(self.text, self.constants, self.feeds)


def dequantized_blocks(zero_point: int, code_type: type) -> Fragment:
    """A product with 16-bit activations and 4-bit weights in blocks of 32."""
    low = 0 if code_type is ml_dtypes.uint4 else -8
    constants = {
        "w": random.integers(low, low + 16, (128, 64)).astype(code_type),
        "ws": np.full((4, 64), 0.05, np.float32),
        "wz": np.full((4, 64), zero_point).astype(code_type),
        "s": np.float32(8 / 65535),
        "os": np.float32(60 / 65535),
        "z": np.uint16(32768),
    }
    text = """g (float[1,4,128] x) => (float[1,4,64] y) {
        xq = QuantizeLinear(x, s, z)
        xd = DequantizeLinear(xq, s, z)
        wd = DequantizeLinear<axis=0, block_size=32>(w, ws, wz)
        m = MatMul(xd, wd)
        mq = QuantizeLinear(m, os, z)
        y = DequantizeLinear(mq, os, z)
    }"""
    return Fragment(text, constants, {"x": normal(1, 4, 128)})  # type: ignore[arg-type]


def dequantized_channels(scale: float, code_type: type, zero_points: bool) -> Fragment:
    """A product with 16-bit activations and channel-wise weights; half of the scales have the sign of `scale`."""
    low = -8 if code_type is ml_dtypes.int4 else -127
    constants = {
        "w": random.integers(low, -low, (128, 64)).astype(code_type),
        "ws": np.where(np.arange(64) % 2, scale, abs(scale)).astype(np.float32),
        "s": np.float32(8 / 65535),
        "os": np.float32(400 * abs(scale) * (1 if low == -8 else 16) / 65535),
        "z": np.uint16(32768),
    } | ({"wz": np.zeros(64, code_type)} if zero_points else {})
    text = f"""g (float[1,4,128] x) => (float[1,4,64] y) {{
        xq = QuantizeLinear(x, s, z)
        xd = DequantizeLinear(xq, s, z)
        wd = DequantizeLinear<axis=1>(w, ws{", wz" if zero_points else ""})
        m = MatMul(xd, wd)
        mq = QuantizeLinear(m, os, z)
        y = DequantizeLinear(mq, os, z)
    }}"""
    return Fragment(text, constants, {"x": normal(1, 4, 128)})  # type: ignore[arg-type]


def grouped_attention() -> Fragment:
    text = """g (float[1,4,64] q, float[1,4,64] k, float[1,4,64] v, float[1,4,16,16] pk, float[1,4,16,16] pv)
        => (float[1,4,64] y, float[1,4,20,16] nk, float[1,4,20,16] nv) {
        y, nk, nv = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=4>(q, k, v, pk, pv, length, total)
    }"""
    feeds = {name: normal(1, 4, 64) for name in "qkv"} | {name: normal(1, 4, 16, 16) for name in ("pk", "pv")}
    return Fragment(text, {"length": np.array([19], np.int32), "total": np.array(20, np.int32)}, feeds)


def squares(rows: str) -> Fragment:
    return Fragment(
        f"g (float[1,{rows},64] x) => (float[1,{rows},64] y) {{ y = Mul(x, x) }}", {}, {"x": normal(1, 4, 64)}
    )


def norm_by_hand() -> Fragment:
    constants = {
        "two": np.float32(2),
        "axis": np.array([-1], np.int64),
        "epsilon": np.float32(1e-5),
        "one": np.float32(1),
        "weight": np.ones(576, np.float32),
    }
    text = """g (float[1,4,576] x) => (float[1,4,576] y) {
        p = Pow(x, two)
        m = ReduceMean<keepdims=1>(p, axis)
        a = Add(m, epsilon)
        s = Sqrt(a)
        r = Div(one, s)
        n = Mul(x, r)
        y = Mul(n, weight)
    }"""
    return Fragment(text, constants, {"x": 3000 * normal(1, 4, 576)})  # type: ignore[arg-type]


def norm(*shape: int, scale: float = 1.0) -> Fragment:
    sizes = ",".join(map(str, shape))
    text = f"g (float[{sizes}] x) => (float[{sizes}] y) {{ y = RMSNormalization<axis=-1, epsilon=1e-5>(x, weight) }}"
    return Fragment(text, {"weight": np.ones(shape[-1], np.float32)}, {"x": np.float32(scale) * normal(*shape)})


def masked_softmax(hidden: float) -> Fragment:
    text = """g (float[1,4] visible, float[1,4] scores) => (float[1,4] y) {
        a = Sub(visible, one)
        b = Mul(a, minus_hidden)
        c = Add(scores, b)
        y = Softmax<axis=-1>(c)
    }"""
    constants = {"one": np.ones(1, np.float32), "minus_hidden": np.array([-hidden], np.float32)}
    return Fragment(text, constants, {"visible": np.array([[1, 1, 0, 0]], np.float32), "scores": normal(1, 4)})


# Rule, and after a slash which of its cases -> (what breaks it, the same written well)
WRONG: dict[str, tuple[Fragment, Fragment]] = {
    "block zero point: DequantizeLinear": (
        dequantized_blocks(8, ml_dtypes.uint4),
        dequantized_blocks(0, ml_dtypes.int4),
    ),
    "misread channels: DequantizeLinear /negative": (
        dequantized_channels(-0.005, np.int8, zero_points=True),
        dequantized_channels(0.005, np.int8, zero_points=True),
    ),
    "misread channels: DequantizeLinear /4 bits": (
        dequantized_channels(0.05, ml_dtypes.int4, zero_points=False),
        dequantized_channels(0.05, ml_dtypes.int4, zero_points=True),
    ),
    "refused operator: Pow": (norm_by_hand(), norm(1, 4, 576, scale=3000)),
    "wide RMSNormalization": (norm(1, 16, 4, 32), norm(1, 64, 32)),
    "unbounded constant: constant minus_hidden": (masked_softmax(-np.inf), masked_softmax(-1e4)),
}
ON_CPU: dict[str, tuple[Fragment, Fragment]] = {
    "refused operator: GroupQueryAttention": (grouped_attention(), norm(1, 4, 64)),
    "symbolic shape": (squares("n"), squares("4")),
}


@pytest.mark.parametrize("rule", [*WRONG, *ON_CPU])
def test_a_broken_rule_is_named(rule: str) -> None:
    broken, good = (WRONG | ON_CPU)[rule]
    check_graph(good.model(), "good")
    with pytest.raises(StageFailed, match="the bad graph is not for the HTP") as caught:
        check_graph(broken.model(), "bad")
    assert f"\n  {rule.partition(' /')[0]}" in caught.value.what


@needs_htp
@pytest.mark.parametrize("rule", WRONG)
def test_the_simulator_computes_something_else_where_a_rule_is_broken(rule: str) -> None:
    broken, good = WRONG[rule]
    found = broken.run()
    assert set(found.on_htp) >= {node.op_type for node in broken.model().graph} - {"QuantizeLinear"}
    assert found.error > 0.2
    assert good.run().error < GOOD


@needs_htp
@pytest.mark.parametrize("rule", ON_CPU)
def test_the_execution_provider_leaves_it_to_the_cpu(rule: str) -> None:
    broken, good = ON_CPU[rule]
    assert (broken.run().on_htp, broken.run().on_cpu) == ((), tuple(node.op_type for node in broken.model().graph))
    found = good.run()
    assert found.on_htp
    assert found.on_cpu == ()


def test_zero_points_of_another_int4_and_unknown_ones_are_found() -> None:
    with pytest.raises(StageFailed, match="block zero point"):
        check_graph(dequantized_blocks(3, ml_dtypes.int4).model(), "bad")
    fragment = dequantized_blocks(0, ml_dtypes.int4)
    constants = {name: array for name, array in fragment.constants.items() if name != "wz"}
    text = fragment.text.replace("(float[1,4,128] x)", "(float[1,4,128] x, int4[4,64] wz)")
    with pytest.raises(StageFailed, match="block zero point"):
        check_graph(Fragment(text, constants).model(), "bad")


def test_several_rules_and_repeats_are_counted() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 23]> g (float[1,n] x) => (float[1,n] z) { y = Pow(x, x) z = Pow(y, y) }'
    )
    with pytest.raises(StageFailed, match="symbolic shape: input x and 2 more") as caught:
        check_graph(ir.from_proto(onnx.shape_inference.infer_shapes(model)), "bad")
    assert "refused operator: Pow  and 1 more" in caught.value.what


@needs_htp
def test_hexagon_68_computes_on_the_cpu_and_is_refused() -> None:
    fragment = norm(1, 4, 64)
    assert simulate(fragment.text, fragment.constants, fragment.feeds, soc=37, arch=68).on_cpu == ("RMSNormalization",)
    with pytest.raises(UsageError, match=r"htp_arch 68 is not supported.*on the CPU"):
        check_device(37, 68)


@needs_htp
@pytest.mark.parametrize("soc", [60, 87, 88])
def test_the_devices_of_the_targets_are_compiled_for(soc: int) -> None:
    fragment = norm(1, 4, 64)
    found = simulate(fragment.text, fragment.constants, fragment.feeds, soc=soc, arch=HEXAGON_OF[soc])
    assert (found.on_cpu, found.error < GOOD) == ((), True)
    check_device(soc, HEXAGON_OF[soc])


def test_unknown_hexagons_and_those_of_other_chips_are_refused() -> None:
    with pytest.raises(UsageError, match="htp_arch 74") as caught:
        check_device(60, 74)
    assert "73" in caught.value.help
    with pytest.raises(UsageError, match="soc_model 60 has a Hexagon v73, not v81"):
        check_device(60, 81)
    check_device(4711, 81)
