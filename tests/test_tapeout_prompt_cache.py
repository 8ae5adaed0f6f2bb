"""`--prefix`: a plan with it computes a state where the runtime takes one; a bundle with it loads on a device."""

import dataclasses
from pathlib import Path

import pytest

from tapeout.build import build
from tapeout.jobs import Request
from tapeout.manifest import differences, read_manifest
from tapeout.planning import make_plan
from tapeout.reproduce import arguments_of
from tapeout.revalidate import revalidate
from tapeout.store import Store
from tapeout.verify import Demands, Seal, inspect_bundle
from targets.errors import InputRefused, IntegrityError, UsageError
from tests.tiers import DEEP_S
from tests.tiny_build import Heard, bench, request
from tests.tiny_folder import spread_vectors, write_folder
from validate.prompt_cache import CANNOT, LOADERS
from validate.prompt_cache_bundle import open_cached
from validate.report import Report
from validate.runtime import RUNTIMES

MODEL = Path("smollm2-135m")  # of the catalog: a plan fetches nothing
TEMPLATE = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}<answer>"


def with_prefix(asked: Request, folder: Path, text: str = "Be brief.") -> Request:
    (folder / "assistant.txt").write_text(text)
    return dataclasses.replace(asked, prefix=str(folder / "assistant.txt"))


def test_every_runtime_takes_a_state_or_says_why_not() -> None:
    assert {*LOADERS, *CANNOT} == set(RUNTIMES) - {"null"}


def test_a_plan_without_a_prefix_has_no_trace_of_it(tmp_path: Path) -> None:
    plan = make_plan(request("ryzen", MODEL))
    assert "prefix" not in {job.stage for job in plan.jobs()}
    assert all("prefix" not in each.measure.parameters and each.cache is None for each in plan.candidates)


def test_a_plan_with_a_prefix_computes_a_state_for_each_package_that_takes_one(tmp_path: Path) -> None:
    asked = with_prefix(request("ryzen", MODEL), tmp_path)
    for each in make_plan(asked).candidates:
        assert each.measure.parameters["prefix"] is True
        assert (each.cache is not None) == (each.runtime.backend in LOADERS)
        assert each.measure.inputs.get("cache") is each.cache
        if each.cache is not None:
            assert each.cache.inputs == {"package": each.compile}
    first = make_plan(asked).candidates[0].cache
    other = make_plan(with_prefix(asked, tmp_path, "Be polite.")).candidates[0].cache
    assert first is not None
    assert other is not None
    assert first.parameters != other.parameters
    arguments = arguments_of("ryzen", asked)
    assert arguments[arguments.index("--prefix") + 1] == str(tmp_path / "assistant.txt")


def test_a_file_that_is_no_prefix_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="empty"):
        make_plan(with_prefix(request("cpu", MODEL), tmp_path, ""))


def measured(report: Report) -> dict[str, bool]:
    """By back end, whether the state of the package in the bundle changed no bit."""
    found = {}
    for runtime in report.devices[0].runtimes:
        assert runtime.carried is not None
        cached = runtime.carried.measurement.prompt_cache
        assert cached is not None
        found[runtime.backend] = cached.bit_equal
    return found


@pytest.mark.deep
@pytest.mark.timeout(DEEP_S)
def test_a_bundle_with_a_prefix_loads_answers_and_refuses(tmp_path: Path) -> None:
    source = write_folder(
        tmp_path / "tiny", hidden_size=64, intermediate_size=128, max_position_embeddings=128, initializer_range=0.1
    )
    spread_vectors(source)
    (source / "chat_template.jinja").write_text(TEMPLATE)
    asked = with_prefix(request(bench(tmp_path), source), tmp_path)
    built = build(asked, Store(tmp_path / "store"), tmp_path / "out", Heard())
    assert measured(built.report) == {"openvino": True, "onnxruntime": True}
    manifest = read_manifest(built.folder)
    assert differences(built.folder, manifest) == []
    found = inspect_bundle(built.folder, Demands())
    assert (found.seal, found.findings) == (Seal.UNSIGNED, ())
    for package, entry in manifest["packages"].items():
        assert (built.folder / entry["prompt_cache"] / "state.npy").is_file()
        cached = open_cached(built.folder, package)
        pipeline = cached.pipeline()
        assert len(pipeline.generate(cached.prompt("Warmer."), 4, stop=False).tokens) == 4
    assert measured(revalidate(built.folder, tmp_path / "again", lambda text: None)) == measured(built.report)
    with pytest.raises(UsageError):
        open_cached(built.folder, "packages/cpu-other")
    described = built.folder / "prompt-cache" / "cpu-openvino" / "prefix.json"
    described.chmod(0o600)
    described.write_text('{"system": "Be rude.", "tools": []}')
    with pytest.raises(IntegrityError, match="not what the state was computed for"):
        open_cached(built.folder, "packages/cpu-openvino")
    again = build(asked, Store(tmp_path / "store"), tmp_path / "other", Heard())
    assert again.report.verdict is built.report.verdict
