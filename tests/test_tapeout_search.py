"""`precision=auto`: the smallest package that passes, found by building candidates."""

import dataclasses
from pathlib import Path

import pytest

from export.model import Model
from quantize.candidates import Candidate, list_candidates
from tapeout.build import Build, build
from tapeout.cli_build import with_files
from tapeout.executor import Executor
from tapeout.jobs import AUTO, Request
from tapeout.planning import make_plan
from tapeout.results import value_of
from tapeout.store import Store
from targets.errors import UsageError
from targets.status import Verdict
from tests.tiny_build import Heard, bench, request
from tests.tiny_calibration import PLAN


def auto(folder: Path, model: Model, int4: float, package_mb_max: float = 1024.0, **changes: object) -> Request:
    """A search with a bound on the KL of 4-bit packages and on the size of every package."""
    wanted = request(bench(folder, int4=int4, package_mb_max=package_mb_max), model.folder, AUTO)
    return dataclasses.replace(wanted, calibration=PLAN, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def found(work: Path, tiny_model: Model) -> tuple[Build, Heard]:
    heard = Heard()
    return build(auto(work, tiny_model, int4=9.0), Store(work / "store"), work / "out", heard), heard


def test_the_smallest_that_passes_ships_in_every_runtime(found: tuple[Build, Heard]) -> None:
    report = found[0].report
    (search,) = report.searches
    passed = [one for one in search.tried if one.passed]
    assert search.chosen == min(passed, key=lambda one: one.weight_bytes).recipe
    for runtime in report.devices[0].runtimes:
        assert runtime.verdict is Verdict.PASS
        assert runtime.shipped is not None
        assert runtime.shipped.scheme == search.chosen
    assert any(one.on_front for one in search.tried)
    assert len({each.weights_digest for each in (r.shipped for r in report.devices[0].runtimes) if each}) == 1
    assert {cost.layer for cost in report.sensitivity} == {0, 1}


def test_more_text_is_judged_when_asked_for(tmp_path: Path, tiny_model: Model) -> None:
    options = {"text": None, "questions": None, "suite": False, "windows": 30}
    wanted = with_files(auto(tmp_path, tiny_model, int4=0.0), options)
    assert (wanted.golden.windows, wanted.golden.weights_windows) == (30, 30)
    assert with_files(wanted, options | {"windows": None}).golden == wanted.golden
    with pytest.raises(UsageError, match="more than the 30 texts"):
        with_files(wanted, options | {"windows": 31})


def test_a_search_goes_on_where_it_stopped(found: tuple[Build, Heard], work: Path, tiny_model: Model) -> None:
    heard = Heard()
    again = build(auto(work, tiny_model, int4=9.0), Store(work / "store"), work / "out", heard)
    assert heard.ran == []
    assert not again.written
    assert again.report.searches == found[0].report.searches
    assert len(heard.cached) == len(set(heard.cached))


def offered(wanted: Request, store: Store) -> tuple[Candidate, ...]:
    """What both runtimes of the device take, smallest first."""
    plan = make_plan(wanted)
    done, _ = Executor(store, Heard()).run(plan)
    facts, costs = (value_of(job, done, store) for job in (plan.model, plan.sensitivity))
    return list_candidates(facts, costs, ("openvino-cpu", "onnxruntime-cpu"))


def test_what_no_recipe_reaches_is_explained(
    found: tuple[Build, Heard], work: Path, tiny_model: Model, tmp_path: Path
) -> None:
    """Two recipes fit the budget. Both fail on their weights alone: only the nearer is measured further."""
    store = Store(work / "store")
    smallest, second, *larger = offered(auto(tmp_path, tiny_model, int4=0.0), store)
    heard = Heard()
    wanted = auto(tmp_path, tiny_model, int4=0.0, weight_bytes_max=second.weight_bytes)
    report = build(wanted, store, tmp_path / "out", heard).report
    (search,) = report.searches
    assert (search.chosen, report.devices[0].verdict) == (None, Verdict.FAIL)
    assert {one.recipe for one in search.tried} == {smallest.recipe, second.recipe}
    for tried in search.tried:
        assert not tried.passed
        assert tried.reason.startswith("weights.kl_mean is ")
        assert tried.tpot_ms is None
    seen = heard.ran + heard.cached
    whole = {name for name in (smallest.recipe, second.recipe) if f"measure {name} cpu-openvino" in seen}
    assert {f"screen {name} cpu-openvino" for name in (smallest.recipe, second.recipe)} <= set(seen)
    assert whole == {search.nearest}
    assert [one.scheme for one in report.devices[0].runtimes[0].candidates] == [search.nearest]
    assert [cost.kl for cost in search.guilty] == sorted((cost.kl for cost in search.guilty), reverse=True)
    assert {cost.name for cost in search.guilty} <= {cost.name for cost in report.sensitivity}
    assert len(report.layer_costs) == 2
    assert search.would_pass is None or search.would_pass.recipe in {one.recipe for one in larger}
    assert found[0].report.sensitivity == report.sensitivity
    assert [note for note in heard.notes if smallest.recipe in note]


def test_a_budget_that_nothing_fits_is_refused(
    found: tuple[Build, Heard], work: Path, tiny_model: Model, tmp_path: Path
) -> None:
    assert found[0].report.searches
    wanted = auto(tmp_path, tiny_model, int4=0.0, weight_bytes_max=1000)
    with pytest.raises(UsageError, match=r"weights of at most 0\.001 MB"):
        build(wanted, Store(work / "store"), tmp_path / "out", Heard())


def test_no_recipe_is_begun_beyond_the_time_budget(
    found: tuple[Build, Heard], work: Path, tiny_model: Model, tmp_path: Path
) -> None:
    """The first is tried whatever there is time for; it is too large for the product, and another would be smaller."""
    assert found[0].report.searches[0].tried
    wanted = auto(tmp_path, tiny_model, int4=9.0, package_mb_max=1e-6, time_budget_s=0.0)
    built = build(wanted, Store(work / "store"), tmp_path / "out", Heard())
    (search,) = built.report.searches
    assert len(search.tried) == 1
    assert search.tried[0].reason.startswith("package_mb is ")
    assert "time budget" in search.stopped
