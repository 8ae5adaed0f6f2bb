"""`precision=auto`: the smallest package that passes, found by building candidates."""

import dataclasses
from pathlib import Path

import pytest

from export.model import Model
from tapeout.build import Build, build
from tapeout.jobs import AUTO, Request
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


def test_a_search_goes_on_where_it_stopped(found: tuple[Build, Heard], work: Path, tiny_model: Model) -> None:
    heard = Heard()
    again = build(auto(work, tiny_model, int4=9.0), Store(work / "store"), work / "out", heard)
    assert heard.ran == []
    assert not again.written
    assert again.report.searches == found[0].report.searches
    assert len(heard.cached) == len(set(heard.cached))


def test_what_no_recipe_reaches_is_explained(
    found: tuple[Build, Heard], work: Path, tiny_model: Model, tmp_path: Path
) -> None:
    wanted = auto(tmp_path, tiny_model, int4=0.0, weight_bytes_max=90_000)
    built = build(wanted, Store(work / "store"), tmp_path / "out", Heard())
    (search,) = built.report.searches
    assert (search.chosen, built.report.devices[0].verdict) == (None, Verdict.FAIL)
    assert search.tried
    assert all(not one.passed for one in search.tried)
    assert search.stopped
    assert found[0].report.sensitivity == built.report.sensitivity


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
    assert found[0].report.searches[0].tried
    # The KL of 8 bits on so small a model is zero within the error of its estimate: size is what surely fails.
    wanted = auto(tmp_path, tiny_model, int4=0.0, package_mb_max=1e-6, time_budget_s=0.0)
    built = build(wanted, Store(work / "store"), tmp_path / "out", Heard())
    (search,) = built.report.searches
    assert len(search.tried) == 1
    assert "time budget" in search.stopped
