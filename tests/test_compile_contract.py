"""What every back end promises, whichever runtime it is for."""

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from compile.backends import BACKENDS, find_backend
from compile.package import check_same_weights, folder_bytes
from export.digest import list_files
from export.hub import SIDE_FILES, OnnxModel
from export.model import Model
from quantize.quantizer import QuantizedModel
from targets.errors import StageFailed, UsageError
from tests.backend_rows import ROWS
from tests.conftest import VARIANTS, Packages, Quantized, QuantizedVariants

HELD = [(backend, scheme) for backend, row in ROWS.items() for scheme in row.schemes]

# Each stage once, in a fresh interpreter; prints a digest per file.
BUILD = """
import sys
from pathlib import Path
from compile.backends import find_backend
from export.hub import export_hub
from export.model import read_model
from quantize.quantizer import quantize_model
from tests.backend_rows import ROWS
out = Path(sys.argv[2])
for name in ("hub", "quantized", *sys.argv[3:]):
    (out / name).mkdir(parents=True)
hub = export_hub(read_model(Path(sys.argv[1])), out / "hub")
quantized = quantize_model(hub, "w4-asym-g32", out / "quantized", lambda done, total: None)
for name in sys.argv[3:]:
    find_backend(name).compile_package(quantized, ROWS[name].options, out / name)
"""


@pytest.fixture(autouse=True)
def no_blob(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the NPU compiler a package is the same every time; what it makes has tests of its own."""
    monkeypatch.setenv("TAPEOUT_NPU_COMPILER", "off")


@pytest.mark.parametrize(("backend", "scheme"), HELD)
def test_a_package_holds_the_quantized_weights(
    tiny_packages: Packages, tiny_quantized: Quantized, backend: str, scheme: str
) -> None:
    package, quantized = tiny_packages["llama", scheme, backend], tiny_quantized[scheme]
    assert package.weights_digest == quantized.weights_digest
    assert (package.backend, package.scheme, package.facts) == (backend, scheme, quantized.facts)
    assert package.checks["quantized_weights"] == sum(quantized.counts.values())
    assert min(package.checks.values()) > 0
    assert package.checks.get("attentions_fused") == package.checks.get("attentions")
    assert package.package_bytes == folder_bytes(package.folder) > 0


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_architecture_becomes_a_package(
    tiny_packages: Packages, quantized_variants: QuantizedVariants, backend: str, variant: str
) -> None:
    scheme = ROWS[backend].usual
    package = tiny_packages[variant, scheme, backend]
    assert package.weights_digest == quantized_variants[variant, scheme].weights_digest


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_package_is_made_again_byte_for_byte_without_touching_its_input(
    tiny_packages: Packages, tiny_quantized: Quantized, tmp_path: Path, backend: str
) -> None:
    scheme = ROWS[backend].usual
    first, quantized = tiny_packages["llama", scheme, backend], tiny_quantized[scheme]
    before = list_files(quantized.folder)
    second = find_backend(backend).compile_package(quantized, ROWS[backend].options, tmp_path)
    assert list_files(quantized.folder) == before
    assert list_files(tmp_path) == list_files(first.folder)
    assert dataclasses.replace(second, folder=first.folder) == first


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_package_brings_its_tokenizer(tiny_packages: Packages, tiny_quantized: Quantized, backend: str) -> None:
    scheme = ROWS[backend].usual
    folder, source = tiny_packages["llama", scheme, backend].folder, tiny_quantized[scheme].folder
    for name in SIDE_FILES:
        assert not (source / name).exists() or (folder / name).read_bytes() == (source / name).read_bytes()
    assert (folder / "chat_template.jinja").exists()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_package_is_self_contained(tiny_packages: Packages, tmp_path: Path, backend: str) -> None:
    folder = tiny_packages["llama", ROWS[backend].usual, backend].folder
    copy = tmp_path / "elsewhere"
    folder_text = str(folder).encode()
    for path in folder.rglob("*"):
        assert not path.is_symlink()
        assert path.is_dir() or folder_text not in path.read_bytes()
    shutil.copytree(folder, copy)
    subprocess.run([sys.executable, "-c", ROWS[backend].load, str(copy)], check=True, cwd=tmp_path, timeout=120)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_weight_that_changed_on_the_way_is_refused(tiny_quantized: Quantized, tmp_path: Path, backend: str) -> None:
    """As if the back end had read one number differently from what was quantized."""
    quantized = tiny_quantized[ROWS[backend].usual]
    name = "model.layers.1.self_attn.k_proj.weight"
    if backend == "null":  # it copies the digests and has no numbers of its own
        with pytest.raises(StageFailed, match="k_proj"):
            check_same_weights(quantized, {**quantized.weights, name: "0" * 64}, backend)
        return
    other = tamper(quantized, name, tmp_path / "tampered")
    (tmp_path / "out").mkdir()
    with pytest.raises(StageFailed, match=rf"package: {name} holds other numbers than the hub"):
        find_backend(backend).compile_package(other, ROWS[backend].options, tmp_path / "out")


def tamper(quantized: QuantizedModel, name: str, out: Path) -> QuantizedModel:
    """The quantized model with one code of `name` changed in its file."""
    import onnx_ir as ir

    shutil.copytree(quantized.folder, out)
    value = ir.load(quantized.graph).graph.initializers[f"{name}.codes"]
    tensor = value.const_value
    assert isinstance(tensor, ir.ExternalTensor)
    data = bytearray((out / "model.onnx.data").read_bytes())
    data[tensor.offset or 0] ^= 1
    (out / "model.onnx.data").write_bytes(data)
    return dataclasses.replace(quantized, folder=out)


@pytest.mark.parametrize("backend", [name for name, entry in BACKENDS.items() if entry.reports])
def test_progress_goes_up_to_the_end(tiny_quantized: Quantized, tmp_path: Path, backend: str) -> None:
    told: list[tuple[int, int]] = []
    maker: Any = find_backend(backend)
    maker.compile_package(
        tiny_quantized[ROWS[backend].usual], {}, tmp_path, progress=lambda done, total: told.append((done, total))
    )
    steps = [done for done, _ in told]
    assert steps == sorted(steps)
    assert told[-1] == (2 * len(tiny_quantized[ROWS[backend].usual].weights),) * 2
    assert {total for _, total in told} == {told[-1][1]}


def test_a_missing_weight_is_refused(tiny_quantized: Quantized) -> None:
    quantized = tiny_quantized["w8-sym"]
    found = dict(quantized.weights)
    del found["model.embed_tokens.weight"]
    with pytest.raises(StageFailed, match=r"x package: model\.embed_tokens\.weight is missing"):
        check_same_weights(quantized, found, "x")
    complete: Mapping[str, str] = {**quantized.weights, "another": "0"}
    assert check_same_weights(quantized, complete, "x") == quantized.weights_digest


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_unknown_option_is_refused_by_name(tiny_quantized: Quantized, tmp_path: Path, backend: str) -> None:
    with pytest.raises(UsageError, match=f"back end {backend} has no option 'sock_model'"):
        find_backend(backend).compile_package(tiny_quantized["w8-sym"], {"sock_model": 60}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_every_back_end_is_in_the_contract_under_its_own_name() -> None:
    assert set(ROWS) == set(BACKENDS)
    assert all(find_backend(name).name == name for name in BACKENDS)


def test_an_unknown_back_end_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown back end 'openvno'") as caught:
        find_backend("openvno")
    assert "did you mean 'openvino'" in caught.value.help


def test_another_process_writes_the_same_bytes(
    tiny_model: Model, tiny_hub: OnnxModel, tiny_quantized: Quantized, tiny_packages: Packages, tmp_path: Path
) -> None:
    names = [name for name, row in ROWS.items() if row.usual == "w4-asym-g32"]
    command = [sys.executable, "-c", BUILD, str(tiny_model.folder), str(tmp_path), *names]
    environment = {"PYTHONHASHSEED": "1", "PATH": "", "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run(command, check=True, env=environment, cwd=tmp_path, capture_output=True, timeout=300)
    assert list_files(tmp_path / "hub") == list_files(tiny_hub.folder)
    assert list_files(tmp_path / "quantized") == list_files(tiny_quantized["w4-asym-g32"].folder)
    for name in names:
        assert list_files(tmp_path / name) == list_files(tiny_packages["llama", "w4-asym-g32", name].folder)
