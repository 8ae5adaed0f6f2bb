"""The HTP package: its options, its files, and what happens when the vendor's compiler does not do its work."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from compile.package import Package
from compile.qnn_backend import QnnBackend, compile_graphs
from compile.qnn_graphs import check_contexts, check_sources, write_sources
from compile.qnn_options import Hexagon, QnnOptions
from compile.vendor_child import run_vendor
from export.digest import digest_file, list_files
from targets.errors import DeviceMissing, StageFailed, UsageError
from targets.status import Status
from tests.conftest import Quantized, QuantizedVariants
from tests.htp_simulator import needs_htp, parse

X_ELITE: Mapping[str, str | int] = {"soc_model": 60, "htp_arch": 73}
SHORT = {**X_ELITE, "context": 48, "chunk": 16}


@pytest.fixture(scope="module")
def package(tiny_quantized: Quantized, tmp_path_factory: pytest.TempPathFactory) -> Package:
    return QnnBackend().compile_package(tiny_quantized["w4-sym-g32"], SHORT, tmp_path_factory.mktemp("package"))


@needs_htp
def test_one_binary_holds_both_graphs_and_nothing_is_left_to_the_cpu(package: Package) -> None:
    binaries = list(package.folder.glob("*.bin"))
    assert [path.name for path in binaries] == ["prefill_ctx_qnn.bin"]
    for session in ("prefill", "decode"):
        (node,) = onnx.load(package.folder / f"{session}_ctx.onnx").graph.node
        attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        assert node.op_type == "EPContext"
        assert attributes["ep_cache_context"] == b"prefill_ctx_qnn.bin"
    # Shared, the weights are there once: the second graph adds little.
    sources = (package.folder / "model.onnx.data").stat().st_size
    assert binaries[0].stat().st_size == package.checks["context_bytes"]
    assert package.checks["context_bytes"] < 4 * sources


@needs_htp
def test_the_package_says_what_it_is_tied_to(package: Package) -> None:
    stated = json.loads((package.folder / "htp.json").read_text())
    assert stated["requires"] == package.requires
    assert package.requires["qairt"].startswith("2.")
    assert {"soc_model": "60", "htp_arch": "73"}.items() <= package.requires.items()
    assert stated["lengths"] == {"context": 48, "chunk": 16}
    assert set(stated["sha256"]) == {"prefill_ctx.onnx", "decode_ctx.onnx", "prefill_ctx_qnn.bin"}
    assert all(digest_file(package.folder / name) == digest for name, digest in stated["sha256"].items())
    assert (package.evidence, package.backend) == ((Status.COMPILED,), "qnn")
    assert "finalize.ps1" in (package.next_step or "")
    assert os.access(package.folder / "finalize.sh", os.X_OK)
    assert b"\r\n" in (package.folder / "finalize.ps1").read_bytes()
    assert package.checks["attentions"] == package.checks["attentions_fused"] == 2
    assert package.checks["quantized_matmuls"] == 15


@needs_htp
def test_a_package_is_made_again_byte_for_byte(package: Package, tiny_quantized: Quantized, tmp_path: Path) -> None:
    QnnBackend().compile_package(tiny_quantized["w4-sym-g32"], SHORT, tmp_path)
    assert list_files(tmp_path) == list_files(package.folder)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "needs the option 'soc_model'"),
        ({"soc_model": 60}, "needs the option 'htp_arch'"),
        ({**X_ELITE, "contxt": 64}, "no option 'contxt'"),
        ({**X_ELITE, "context": 0}, "context = 0 is not a whole number"),
        ({**X_ELITE, "context": 64, "chunk": 65}, "chunk = 65 is not a whole number from 1 to 64"),
        ({**X_ELITE, "chunk": "64"}, "chunk = '64'"),
        ({"soc_model": 37, "htp_arch": 68}, "htp_arch 68 is not supported"),
        ({**X_ELITE, "activations": "float1"}, "unknown kind of activations 'float1'"),
    ],
)
def test_options_are_checked_before_any_work(
    tiny_quantized: Quantized, tmp_path: Path, options: Mapping[str, str | int], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        QnnBackend().compile_package(tiny_quantized["w4-sym-g32"], options, tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_the_compiler_the_error_says_how_to_get_it(
    tiny_quantized: Quantized, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_qnn.build_and_package_info", None)
    with pytest.raises(DeviceMissing, match="onnxruntime-qnn, which holds the HTP's compiler, is not installed"):
        QnnBackend().compile_package(tiny_quantized["w4-sym-g32"], X_ELITE, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_a_target_does_not_say_has_a_default() -> None:
    assert QnnOptions.read(X_ELITE) == QnnOptions(Hexagon(60, 73), 512, 64, "float16")


def operators(path: Path) -> list[str]:
    return [node.op_type for node in ir.load(path).graph]


def test_graphs_differ_in_shapes_only_and_share_one_file(tiny_quantized: Quantized, tmp_path: Path) -> None:
    write_sources(tiny_quantized["w4-sym-g32"], 48, {"prefill": 16, "decode": 1}, tmp_path)
    assert operators(tmp_path / "prefill.onnx") == operators(tmp_path / "decode.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["decode.onnx", "model.onnx.data", "prefill.onnx"]
    decode = ir.load(tmp_path / "decode.onnx").graph
    kept = [value.const_value for value in decode.initializers.values()]
    inside = sum(tensor.nbytes for tensor in kept if tensor is not None and not isinstance(tensor, ir.ExternalTensor))
    assert inside < 4000  # shapes, the row of the mask, and vectors too small to be stored apart
    shapes = {value.name: list(value.shape or ()) for value in decode.inputs}
    assert shapes["attention_mask"] == [1, 49]
    assert shapes["past_key_values.1.value"] == [1, 2, 48, 16]
    assert {value.name: list(value.shape or ()) for value in decode.outputs}["present.0.key"] == [1, 2, 1, 16]


@pytest.mark.parametrize(
    "name", ["model.layers.1.self_attn.k_proj.weight.blocks.codes", "model.embed_tokens.weight.Mul.rows"]
)
def test_a_weight_that_changed_on_the_way_is_refused(tiny_quantized: Quantized, tmp_path: Path, name: str) -> None:
    quantized = tiny_quantized["w4-sym-g32"]
    packed = write_sources(quantized, 48, {"prefill": 16, "decode": 1}, tmp_path)
    check_sources(quantized, packed, tmp_path)
    tensor = ir.load(tmp_path / "decode.onnx").graph.initializers[name].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    data = bytearray((tmp_path / "model.onnx.data").read_bytes())
    data[tensor.offset or 0] ^= 1
    (tmp_path / "model.onnx.data").write_bytes(data)
    with pytest.raises(StageFailed, match=rf"qnn package: {name.partition('.weight')[0]}\.weight holds other numbers"):
        check_sources(quantized, packed, tmp_path)


def test_an_untied_table_is_read_back_too(quantized_variants: QuantizedVariants, tmp_path: Path) -> None:
    quantized = quantized_variants["untied", "w8-sym"]
    packed = write_sources(quantized, 48, {"prefill": 16, "decode": 1}, tmp_path)
    checks, digest = check_sources(quantized, packed, tmp_path)
    assert digest == quantized.weights_digest
    assert checks["quantized_weights"] == sum(quantized.counts.values())


def test_operators_outside_a_context_are_named(tmp_path: Path) -> None:
    text = """g (float[1,4] x) => (float[1,4] z) {
        y = com.microsoft.EPContext<embed_mode=0>(x)
        z = Erf(y)
    }"""
    onnx.save(parse(text, {}), tmp_path / "prefill_ctx.onnx")
    with pytest.raises(StageFailed, match=r"prefill_ctx\.onnx leaves 1 operators to the CPU: Erf"):
        check_contexts([tmp_path / "prefill_ctx.onnx"])


def failing(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Let the vendor's child be another program."""
    monkeypatch.setattr(
        "compile.qnn_compiler.run_vendor", lambda command, **rest: run_vendor(["/bin/sh", "-c", program], **rest)
    )


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (f"echo working; kill -{signal.SIGSEGV.value} $$", "died of SIGSEGV; it said:\n  working"),
        ("echo refused >&2; exit 1", "ended with code 1; it said:\n  refused"),
        ("true", r"ended without writing prefill_ctx\.onnx, decode_ctx\.onnx, prefill_ctx_qnn\.bin; it said nothing"),
    ],
)
def test_a_compiler_that_fails_is_a_failed_stage_with_its_log(
    tiny_quantized: Quantized, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, said: str
) -> None:
    write_sources(tiny_quantized["w4-sym-g32"], 48, {"prefill": 16, "decode": 1}, tmp_path)
    failing(monkeypatch, program)
    with pytest.raises(StageFailed, match=f"HTP compiler: prefill and decode graphs {said}") as caught:
        compile_graphs(Hexagon(60, 73), tmp_path)
    assert caught.value.what.endswith("it does not compile a single addition either: it does not work here")
    log = Path(caught.value.help.removeprefix("its whole log is "))
    assert log.is_file()
    shutil.rmtree(log.parent)


@needs_htp
@pytest.mark.deep
def test_the_smallest_part_that_the_compiler_refuses_is_named(tmp_path: Path) -> None:
    text = """g (float[1,4,64] x, float[1,4,16,16] pk, float[1,4,16,16] pv) => (float[1,4,64] z) {
        q = Mul(x, x)
        y, nk, nv = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=4>(q, x, x, pk, pv, length, total)
        z = Sigmoid(y)
    }"""
    model = parse(text, {"length": np.array([19], np.int32), "total": np.array(20, np.int32)})
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4, 64]))
    for name in ("prefill", "decode"):
        onnx.save(onnx.shape_inference.infer_shapes(model), tmp_path / f"{name}.onnx")
    with pytest.raises(StageFailed, match="part of the decode graph that it refuses: GroupQueryAttention") as caught:
        compile_graphs(Hexagon(60, 73), tmp_path)
    shutil.rmtree(Path(caught.value.help.removeprefix("its whole log is ")).parent)


def test_a_compiler_that_only_fails_on_the_whole_is_said_to(
    tiny_quantized: Quantized, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when both graphs together are too much for it."""
    write_sources(tiny_quantized["w4-sym-g32"], 48, {"prefill": 16, "decode": 1}, tmp_path)
    first: list[str] = []

    def compile_all_but_the_first(hexagon: Hexagon, graphs: object, what: str, scratch: Path, log: Path) -> None:
        first.append(what)
        if len(first) == 1:
            raise StageFailed("too much", f"its whole log is {log}")

    compiler: Callable[..., None] = compile_all_but_the_first
    monkeypatch.setattr("compile.qnn_backend.compile_contexts", compiler)
    with pytest.raises(StageFailed, match="too much\nit takes each graph on its own"):
        compile_graphs(Hexagon(60, 73), tmp_path)
    assert len(first) == 4
