"""Finding, fetching, building and running the NPU compiler, and what it must have written."""

import re
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from compile import npu_compiler_wine
from compile.npu_compiler import (
    DOWNLOADS_VARIABLE,
    PLATFORMS,
    SWITCH_VARIABLE,
    Compiler,
    compile_blob,
    describe_compiler,
    downloads_folder,
    find_compiler,
    plain_version,
    read_facts,
)
from compile.npu_compiler_blob import MAGIC, check_blob, read_blob
from compile.npu_compiler_native import NativeCompiler, find_native
from compile.npu_compiler_wheel import VERSION, fetch_wheel, unpack_wheel
from compile.npu_compiler_wine import INSTALL, WineCompiler, find_wine, only_one
from compile.openvino_backend import write_model
from compile.openvino_npu_backend import OpenVinoNpuBackend
from compile.openvino_npu_shapes import npuw_properties
from export.hub import export_hub
from export.model import import_model
from export.source import CatalogName
from quantize.quantizer import quantize_model
from targets.errors import DeviceMissing, IntegrityError, StageFailed
from targets.probe import Available, Missing
from targets.status import Status
from tests.conftest import Packages, Quantized

DOWNLOADS = Path(__file__).resolve().parents[1] / "artifacts" / ".downloads"
SHAPES = npuw_properties({"MAX_PROMPT_LEN": 64, "MIN_RESPONSE_LEN": 64})
REQUIREMENT = "compiler=8.4;npu=4000;t=4;elf=1.2.2;mi=11.4.10"
FACTS = f"openvino 2026.4.1-build\ncompiler 524292\nrequirements meta=2.7;ov=2026.4.1;desc=[{REQUIREMENT}]\n"
PARTS = ("prefill_FCEW000__0", "prefill_REP007A__0", "kv1152_REP0083__0", "lm_head_FCEW000__0")


def blob_bytes(parts: Sequence[str] = PARTS, binaries: int = 4, requirement: str = REQUIREMENT) -> bytes:
    """A blob with the outside of a real one and nothing inside its binaries."""
    head = MAGIC + struct.pack("<3iQ", 2026, 4, 1, 4) + b"0.31" + b"\x00\x01"
    body = b"".join(b"\x7fELF" + bytes(8) + f"\x0cmodel_{part}\x00".encode() for part in parts[:binaries])
    named = b"".join(f"\x0cmodel_{part}\x00{requirement}\x00\x00".encode() for part in parts)
    return head + body + named


class ScriptedCompiler:
    """A compiler that is a line of Python: argument 4 is the blob to write."""

    version = "scripted"

    def __init__(self, code: str) -> None:
        self.code = code

    def prepare(self, cache: Path) -> None:
        cache.mkdir(parents=True, exist_ok=True)

    def command(self, cache: Path, arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-c", self.code, *arguments]

    def environment(self, cache: Path) -> Mapping[str, str]:
        return {}

    def path(self, path: Path) -> str:
        return str(path)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Something with weights beside it; and a cache of the test's own."""
    monkeypatch.setenv(DOWNLOADS_VARIABLE, str(tmp_path / "downloads"))
    (tmp_path / "model.bin").write_bytes(bytes(8))
    (tmp_path / "model.xml").write_text("<net/>")
    return tmp_path / "model.xml"


def writes(content: bytes, said: str = FACTS) -> ScriptedCompiler:
    return ScriptedCompiler(f"import sys; open(sys.argv[4], 'wb').write({content!r}); print({said!r})")


def test_a_blob_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(blob_bytes())
    facts = read_blob(tmp_path / "blob")
    assert (facts.openvino, facts.serialization, facts.weightless) == ("2026.4.1", "0.31", True)
    assert (facts.binaries, facts.requirements) == (4, (REQUIREMENT,))
    assert facts.parts == PARTS
    assert facts.sessions() == {"prefill": 2, "decode": 1, "head": 1}
    check_blob(facts, "4000")


@pytest.mark.parametrize(
    ("content", "platform", "message"),
    [
        (blob_bytes(binaries=3), "4000", "holds 3 NPU binaries for 4 parts"),
        (blob_bytes(parts=()), "4000", "holds 0 NPU binaries for 0 parts"),
        (blob_bytes(), "5010", f"the blob for NPU 5010 requires {re.escape(REQUIREMENT)}"),
        (blob_bytes(requirement="none"), "4000", "requires nothing that it names"),
    ],
)
def test_a_blob_that_is_not_for_the_npu_throughout_is_refused(
    tmp_path: Path, content: bytes, platform: str, message: str
) -> None:
    (tmp_path / "blob").write_bytes(content)
    with pytest.raises(StageFailed, match=message):
        check_blob(read_blob(tmp_path / "blob"), platform)


@pytest.mark.parametrize("content", [b"", b"\x7fELF" + bytes(100), MAGIC + b"\xff" * 100])
def test_another_file_is_no_blob(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "blob").write_bytes(content)
    with pytest.raises(StageFailed, match=r"is not the blob of a language model|has an unknown header"):
        read_blob(tmp_path / "blob")


def test_what_the_compiler_wrote_and_said_is_kept_and_its_log_is_not(model: Path) -> None:
    compiled = compile_blob(writes(blob_bytes()), model, "4000", {}, model.with_suffix(".blob"))
    assert compiled.compiler == "scripted, compiler 8.4"
    assert compiled.requirements == f"meta=2.7;ov=2026.4.1;desc=[{REQUIREMENT}]"
    assert compiled.blob.binaries == 4
    assert not list(downloads_folder().rglob("*.log"))


@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        (
            ScriptedCompiler("pass"),
            r"(?s)NPU 4000 compiler ended without writing model.blob.*does not compile a single operator either",
        ),
        (
            ScriptedCompiler("import sys; sys.exit('no such operator')"),
            r"ended with code 1; it said:\n  no such operator",
        ),
        (writes(blob_bytes(), "compiler 1"), "did not say its openvino, requirements"),
        (writes(blob_bytes(binaries=0)), "holds 0 NPU binaries"),
    ],
)
def test_a_compiler_that_does_not_deliver_is_an_error(model: Path, compiler: Compiler, message: str) -> None:
    with pytest.raises(StageFailed, match=message):
        compile_blob(compiler, model, "4000", {}, model.with_suffix(".blob"))


def test_the_smallest_part_that_it_refuses_is_named(tiny_packages: Packages, model: Path) -> None:
    decoder = tiny_packages["llama", "w8-sym", "openvino"].folder / "openvino_model.xml"
    choosy = ScriptedCompiler(
        "import sys; attends = 'ScaledDotProductAttention' in open(sys.argv[3]).read();"
        "sys.exit('no attention') if attends else open(sys.argv[4], 'wb').write(b'blob')"
    )
    with pytest.raises(StageFailed, match=r"(?s)no attention.*it refuses: ScaledDotProductAttention \S+ \(reads f32"):
        compile_blob(choosy, decoder, "4000", {}, model.with_suffix(".blob"))


def test_a_compiler_that_takes_every_part_is_said_to(tiny_packages: Packages, model: Path) -> None:
    """As when what NPUW makes of the model is refused, and not the model."""
    decoder = tiny_packages["llama", "w8-sym", "openvino"].folder / "openvino_model.xml"
    choosy = ScriptedCompiler(
        "import sys; sys.exit('no') if 'NPUW_LLM' in sys.argv else open(sys.argv[4], 'wb').write(b'blob')"
    )
    with pytest.raises(StageFailed, match="it takes the model at fixed lengths, as a whole"):
        compile_blob(choosy, decoder, "4000", SHAPES, model.with_suffix(".blob"))


def test_the_compiler_is_told_the_platform_and_the_shapes(model: Path) -> None:
    tell = ScriptedCompiler("import sys; sys.exit(' '.join(sys.argv[1:]))")
    with pytest.raises(StageFailed) as caught:
        compile_blob(tell, model, "3720", npuw_properties({"MAX_PROMPT_LEN": 64}), model.with_suffix(".blob"))
    assert re.search(r"\n  3720 \S+probe.xml \S+model.xml \S+model.blob ", caught.value.what)
    assert "NPUW_DEVICES NPU NPUW_LLM_MAX_PROMPT_LEN 64 NPU_COMPILER_TYPE PLUGIN NPU_PLATFORM 3720" in caught.value.what


def test_facts_are_found_among_what_else_is_printed(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(f"a warning\r\n{FACTS}compiling\n")
    assert read_facts(tmp_path / "log", "it")["compiler"] == "524292"


def test_a_version_is_unpacked() -> None:
    assert plain_version("524292") == "8.4"


def test_openvinos_own_compiler_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_native([tmp_path]) is None
    library = tmp_path / "libopenvino_intel_npu_compiler.so"
    library.touch()
    found = find_native([tmp_path])
    assert found == NativeCompiler(library)
    monkeypatch.setattr("compile.npu_compiler.find_native", lambda: found)
    assert find_compiler() == found
    described = describe_compiler()
    assert isinstance(described, Available)
    assert library.name in described.version


def test_an_openvino_without_a_compiler_says_so_as_a_child(model: Path) -> None:
    """The Linux wheel: the child is run for real, and its reason reaches the error."""
    if find_native():
        pytest.skip("this OpenVINO has a compiler")
    with pytest.raises(
        StageFailed,
        match=r"(?s)NPU 4000 compiler ended with code 1; it said:.*\n  Exception from .*VCL compiler loading failed",
    ) as caught:
        compile_blob(NativeCompiler(Path("none")), model, "4000", {}, model.with_suffix(".blob"))
    assert caught.value.help.endswith(".log")


def test_without_wine_the_line_that_installs_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("compile.npu_compiler.find_native", lambda: None)
    monkeypatch.setattr("compile.npu_compiler.find_wine", lambda: find_wine(files=()))
    found = describe_compiler()
    assert isinstance(found, Missing)
    assert "wine64 and x86_64-w64-mingw32-gcc" in found.reason
    assert found.help == INSTALL == "apt-get install --no-install-recommends wine64 gcc-mingw-w64-x86-64-win32"


def test_the_compiler_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH_VARIABLE, "off")
    found = describe_compiler()
    assert isinstance(found, Missing)
    assert SWITCH_VARIABLE in found.reason


def test_a_wheel_that_cannot_be_fetched_is_a_device_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DeviceMissing, match=r"cannot be fetched: ERROR: .*openvino==2026.4.1"):
        fetch_wheel(tmp_path)


def test_a_changed_wheel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wheel").write_bytes(b"PK")
    with pytest.raises(IntegrityError, match="is not the wheel that is pinned"):
        unpack_wheel(tmp_path / "wheel", tmp_path)


def test_a_driver_that_does_not_build_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npu_compiler_wine, "fetch_wheel", lambda folder: folder)
    monkeypatch.setattr(npu_compiler_wine, "unpack_wheel", lambda wheel, folder: None)
    compiler = WineCompiler(Path(sys.executable), Path(sys.executable))
    with pytest.raises(StageFailed, match="building the NPU compiler's driver ended with code"):
        compiler.prepare(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["build.log", "lock"]


def test_wine_sees_the_file_system_as_drive_z(tmp_path: Path) -> None:
    assert WineCompiler(Path("w"), Path("g")).path(tmp_path / "m.xml") == f"Z:{(tmp_path / 'm.xml').resolve()}"


def test_setting_up_is_done_by_one_at_a_time(tmp_path: Path) -> None:
    import fcntl

    with only_one(tmp_path / "lock"), (tmp_path / "lock").open("wb") as second, pytest.raises(BlockingIOError):
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.fixture
def real_compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """What this machine has, set up where the project keeps what it fetches."""
    monkeypatch.setenv(DOWNLOADS_VARIABLE, str(DOWNLOADS))
    compiler = find_compiler()
    if isinstance(compiler, Missing):
        pytest.skip(f"{compiler.reason}: {compiler.help}")
    return compiler


def model_for_the_npu(quantized: Quantized, folder: Path) -> Path:
    """The IR as the NPU's back end writes it."""
    (folder / "model").mkdir()
    write_model(quantized["w8-sym"], folder / "model", joined=False)
    return folder / "model" / "openvino_model.xml"


@pytest.mark.parametrize("platform", ["4000", pytest.param("5010", marks=pytest.mark.deep)])
def test_a_decoder_is_compiled_for_an_npu_that_is_not_here(
    tiny_quantized: Quantized, real_compiler: Compiler, tmp_path: Path, platform: str
) -> None:
    """The real compiler; each part of the model becomes an NPU binary."""
    model = model_for_the_npu(tiny_quantized, tmp_path)
    compiled = compile_blob(real_compiler, model, platform, SHAPES, tmp_path / "out.blob")
    assert compiled.blob.binaries == len(compiled.blob.parts) >= 3
    assert set(compiled.blob.sessions()) == {"prefill", "decode", "head"}
    assert compiled.blob.openvino == VERSION
    assert all(text in compiled.requirements for text in compiled.blob.requirements)


@pytest.mark.deep
def test_what_the_compiler_says_of_a_model_it_refuses_is_passed_on(
    tiny_quantized: Quantized, real_compiler: Compiler, tmp_path: Path
) -> None:
    """Compiler 8.4 takes the tiny decoder for 4000 and 5010, and not for 3720."""
    model = model_for_the_npu(tiny_quantized, tmp_path)
    with pytest.raises(StageFailed, match=r"(?s)NPU 3720 compiler ended with code 1.*UnrollPermuteDMA Pass failed"):
        compile_blob(real_compiler, model, "3720", SHAPES, tmp_path / "out.blob")


@pytest.mark.deep
@pytest.mark.truth
@pytest.mark.parametrize("scheme", ["w4-sym-cw", "w8-sym"])
def test_smollm2_is_compiled_for_every_generation(
    new_folder: Callable[[str], Path], real_compiler: Compiler, scheme: str
) -> None:
    imported = import_model(CatalogName("smollm2-135m"), new_folder("smollm2"), DOWNLOADS)
    hub = export_hub(imported, new_folder("hub"))
    quantized = quantize_model(hub, scheme, new_folder("quantized"), lambda done, total: None)
    for platform in PLATFORMS:
        package = OpenVinoNpuBackend().compile_package(quantized, {"npu_platform": platform}, new_folder("npu"))
        assert package.evidence == (Status.COMPILED,)
        assert package.checks["npu_binaries"] == 7
        # Channel-wise weights stay out of the prefill's binaries: 120 MB when NPUW is not told of them.
        assert (package.folder / "openvino_model.blob").stat().st_size < 50e6
