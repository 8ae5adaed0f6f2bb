"""What bisection reports of a graph that a compiler refuses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from compile.refused_graph import find_refused
from tests.htp_simulator import needs_htp, parse

CHAIN = "g (float[2,8] x) => (float[2,8] y) { %s }"


def chain(*op_types: str) -> str:
    """A graph of one-input operators one after the other."""
    lines = [f"v{i + 1} = {op_type}(v{i})" for i, op_type in enumerate(op_types)]
    return CHAIN % " ".join(lines).replace("v0)", "x)").replace(f"v{len(lines)} =", "y =")


class Toy:
    """A compiler that refuses what `refuses` says of the operator types it meets, in graph order."""

    def __init__(self, refuses: Callable[[list[str]], bool]) -> None:
        self.refuses = refuses
        self.seen: list[list[str]] = []

    def __call__(self, path: Path) -> bool:
        model = onnx.load(path)
        onnx.checker.check_model(model)
        self.seen.append([node.op_type for node in model.graph.node])
        return not self.refuses(self.seen[-1])


def saved(folder: Path, text: str, **constants: np.ndarray) -> Path:
    path = folder / "whole.onnx"
    onnx.save(parse(text, constants), path)
    return path


FILLER = ["Abs", "Neg", "Exp", "Tanh", "Sqrt", "Floor", "Ceil", "Round"] * 4


@pytest.mark.parametrize("place", [0, 1, 13, 30, 31])
def test_one_refused_operator_is_found_among_many(tmp_path: Path, place: int) -> None:
    toy = Toy(lambda op_types: "Erf" in op_types)
    path = saved(tmp_path, chain(*FILLER[:place], "Erf", *FILLER[place:]))
    found = find_refused(path, toy, tmp_path)
    assert found is not None
    assert [op_type for op_type, _ in found.operators] == ["Erf"]
    assert found.compiled == len(toy.seen) < 16
    assert sum(map(len, toy.seen)) < 4 * 33
    assert str(found).startswith("Erf ")
    assert "FLOAT[2,8]" in str(found)


@pytest.mark.parametrize("place", [0, 5, 15, 16, 29])
def test_two_operators_refused_only_together_are_both_found(tmp_path: Path, place: int) -> None:
    toy = Toy(lambda op_types: "Erf Sign" in " ".join(op_types))
    path = saved(tmp_path, chain(*FILLER[:place], "Erf", "Sign", *FILLER[place:]))
    found = find_refused(path, toy, tmp_path)
    assert found is not None
    assert [op_type for op_type, _ in found.operators] == ["Erf", "Sign"]


def test_what_stands_between_and_does_not_matter_is_left_out(tmp_path: Path) -> None:
    toy = Toy(lambda op_types: {"Erf", "Sign"} <= set(op_types))
    path = saved(tmp_path, chain(*FILLER[:9], "Erf", *FILLER[:11], "Sign", *FILLER[:5]))
    found = find_refused(path, toy, tmp_path)
    assert found is not None
    assert [op_type for op_type, _ in found.operators] == ["Erf", "Sign"]


def test_a_graph_that_is_taken_gives_nothing(tmp_path: Path) -> None:
    assert find_refused(saved(tmp_path, chain(*FILLER)), Toy(lambda op_types: False), tmp_path) is None


def test_what_dequantizes_and_quantizes_an_operator_stays_with_it(tmp_path: Path) -> None:
    text = """g (float[2,8] x) => (float[2,8] y) {
        a = Neg(x)
        aq = QuantizeLinear(a, s, z)
        ad = DequantizeLinear(aq, s, z)
        wd = DequantizeLinear(w, s, z)
        m = MatMul(ad, wd)
        mq = QuantizeLinear(m, s, z)
        md = DequantizeLinear(mq, s, z)
        y = Erf(md)
    }"""
    toy = Toy(lambda op_types: "MatMul" in op_types)
    codes, zero_point = np.ones((8, 8), np.uint8), np.array(128, np.uint8)
    found = find_refused(saved(tmp_path, text, w=codes, s=np.array(0.1, np.float32), z=zero_point), toy, tmp_path)
    assert found is not None
    unit = ["DequantizeLinear", "DequantizeLinear", "MatMul", "QuantizeLinear"]
    assert [op_type for op_type, _ in found.operators] == unit
    assert all(seen.count("DequantizeLinear") >= 2 for seen in toy.seen if "MatMul" in seen)


@needs_htp
def test_the_real_compiler_s_refusal_is_named(tmp_path: Path) -> None:
    """GroupQueryAttention between operators that the HTP takes."""
    import onnxruntime

    from validate.qnn_runtime import Qnn

    device = Qnn().device

    def compiles(path: Path) -> bool:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        options.add_provider_for_devices([device], {"backend_type": "htp", "soc_model": "60", "htp_arch": "73"})
        try:
            onnxruntime.InferenceSession(path, options)
        except Exception:  # noqa: BLE001 - ONNX Runtime's errors have no base of their own
            return False
        return True

    text = """g (float[1,4,64] x, float[1,4,16,16] pk, float[1,4,16,16] pv) => (float[1,4,64] z) {
        q = Mul(x, x)
        k = Neg(x)
        v = Tanh(x)
        y, nk, nv = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=4>(q, k, v, pk, pv, length, total)
        s = Sigmoid(y)
        z = Add(s, x)
    }"""
    constants = {"length": np.array([19], np.int32), "total": np.array(20, np.int32)}
    path = tmp_path / "whole.onnx"
    model = parse(text, constants)
    shapes = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4, 64])]
    model.graph.value_info.extend(shapes)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    found = find_refused(path, compiles, tmp_path)
    assert found is not None
    assert [op_type for op_type, _ in found.operators] == ["GroupQueryAttention"]
