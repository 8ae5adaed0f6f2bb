"""`precision=auto` on decoders of two other families that were trained here: the search is not tuned to one model."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from quantize.calibration_plan import CalibrationPlan
from tapeout.build import build
from tapeout.jobs import AUTO
from tapeout.store import Store
from targets.status import Verdict
from tests.tiny_build import Heard, bench, request
from tests.tiny_trained import train_folder

KL = 0.1  # nats: a decoder that learned something, and less than rounding it to nearest costs


@pytest.mark.deep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("family", "changes"), [("qwen2", {"tie_word_embeddings": False, "hidden_size": 128}), ("qwen3", {"head_dim": 32})]
)
def test_the_smallest_recipe_that_passes_is_found(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    source = train_folder(tmp_path / "source", family, **changes)
    target = bench(tmp_path, int8=KL, int4=KL)
    wanted = dataclasses.replace(request(target, source, AUTO), calibration=CalibrationPlan(sequences=32, tokens=96))
    report = build(wanted, Store(tmp_path / "store"), tmp_path / "out", Heard()).report
    (search,) = report.searches
    passed = [one for one in search.tried if one.passed]
    assert passed, search
    assert search.chosen == min(passed, key=lambda one: one.weight_bytes).recipe
    for runtime in report.devices[0].runtimes:
        assert runtime.verdict is Verdict.PASS, runtime.reason
        assert runtime.shipped is not None
        assert runtime.shipped.scheme == search.chosen
        assert runtime.shipped.measurement.fidelity["weights"].kl_mean <= KL
