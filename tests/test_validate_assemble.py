"""How a report words packages that are not there, and which packages it holds against each other."""

from pathlib import Path

import pytest

from compile.package import Package
from targets.errors import NotForModel, StageFailed
from targets.gates import Gates
from tests.sample_report import measurement, sample_report
from validate.assemble import Built, judge_built, reasons
from validate.report import Failure

GATES = Gates(kl_mean_max=1.0, top1_min=0.5, perplexity_ratio_max=2.0, runtime_kl_gap_max=0.01)


@pytest.mark.parametrize(("digest", "compared"), [("a" * 64, True), ("b" * 64, False)])
def test_only_the_same_weights_in_another_runtime_are_compared(digest: str, compared: bool) -> None:
    """What a vendor's tool chose differs from our weights by more than a runtime does."""
    one = built("onnxruntime", "a" * 64, 0.01)
    other = built("openvino", digest, 0.5)
    gates = judge_built(one, GATES, [one, other], ())
    assert ("weights.runtime_kl_gap" in {gate.name for gate in gates}) == compared


def built(backend: str, digest: str, kl: float) -> Built:
    """A package of w4-sym-g64 that was measured."""
    facts = sample_report().model
    package = Package(Path("x"), facts, backend, "w4-sym-g64", digest, {}, {}, 1)  # type: ignore[arg-type]
    return Built("cpu", backend, "w4-sym-g64", package, "c" * 64, measurement(backend, "w4-sym-g64", kl, 0.9, 1.1))


def test_what_a_model_has_no_use_for_did_not_fail() -> None:
    found = reasons(
        [],
        (
            Failure("w4-sym-g128", "compile", NotForModel.__name__, "groups of 128 do not divide 576", "nothing"),
            Failure("w8-sym", "compile", StageFailed.__name__, "it crashed", "look"),
        ),
    )
    assert found == "w4-sym-g128: not made: groups of 128 do not divide 576; w8-sym: compile failed: it crashed"
