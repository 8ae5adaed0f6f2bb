"""What 4 and 8 bits cost SmolLM2-135M: KL of the weights through both shipped runtimes, on all the text we judge by.

The figures are those of the README, taken by the stages of the pipeline on 30 texts of 256 tokens (7,680 positions):

    TAPEOUT_STORE=artifacts/.store .venv/bin/python -m pytest -m deep -s tests/test_quantize_promises.py

A store that outlives the test keeps the finished stages; without one the whole takes about half an hour on two cores.
"""

import dataclasses
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tapeout.executor import Executor
from tapeout.jobs import AUTO, CandidateJobs, Request
from tapeout.planning import make_plan
from tapeout.results import value_of
from tapeout.store import Store
from targets.probe import probe_host
from targets.target import load_target
from tests.tiny_build import Heard
from validate.golden_text import texts
from validate.measurement import Fidelity
from validate.plans import GoldenPlan

DOWNLOADS = Path(__file__).resolve().parents[1] / "artifacts" / ".downloads"
GAP = 1e-3  # nats: the same weights in two runtimes


@dataclass(frozen=True)
class Promise:
    """A recipe, the most its weights may take in 10^6 bytes, and the KL it must stay below."""

    recipe: str
    megabytes: float
    kl: float


# SmolLM2's 576 input channels are 4.5 times 128: where groups of 128 do not divide a weight it is channel-wise, as the
# hub does everywhere; q, k, v, o, gate and up are, and down alone has groups.
PROMISES = (
    Promise("w4-asym-g64+keep5+gptq", 92.0, 0.15),
    Promise("w4-asym-g64+keep30+gptq", 105.0, 0.045),
    Promise("w8-asym+clip", 140.0, 0.004),
    Promise("w4-sym-g128+gptq", 90.0, 0.25),
    Promise("w4-sym-cw+gptq", 90.0, 0.30),
)


def screened(promise: Promise, store: Store) -> tuple[float, dict[str, Fidelity]]:
    """The megabytes of the weights, and their fidelity in each runtime of the `cpu` target."""
    every = len(texts())
    request = Request(
        target=load_target("cpu"),
        source="smollm2-135m",
        precision=AUTO,
        host=probe_host(),
        downloads=str(DOWNLOADS),
        golden=GoldenPlan(windows=every, weights_windows=every),
        found={"cpu": (promise.recipe,)},
    )
    plan = make_plan(request)
    jobs = {each: each.screen for each in plan.candidates}
    done, _ = Executor(store, Heard()).run(dataclasses.replace(plan, candidates=(), wanted=tuple(jobs.values())))
    megabytes = done[plan.candidates[0].compile.inputs["quantized"]].record.value["weight_bytes"] / 1e6

    def found(each: CandidateJobs) -> Fidelity:
        fidelity = value_of(jobs[each], done, store).fidelity
        assert isinstance(fidelity, Fidelity)
        return fidelity

    return megabytes, {each.runtime.backend: found(each) for each in jobs}


@pytest.mark.deep
@pytest.mark.truth
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.recipe)
def test_smollm2_keeps_its_promises(promise: Promise, tmp_path: Path) -> None:
    store = Store(Path(os.environ.get("TAPEOUT_STORE", tmp_path / "store")))
    megabytes, fidelity = screened(promise, store)
    assert set(fidelity) == {"openvino", "onnxruntime"}
    for backend, one in fidelity.items():
        sys.stdout.write(
            f"{promise.recipe} {backend}: {megabytes:.1f} MB, KL {one.kl_mean:.4f} ({one.kl_low:.4f} to"
            f" {one.kl_high:.4f}), top-1 {100 * one.top1:.1f} %, perplexity ratio {one.perplexity_ratio:.4f},"
            f" {one.positions} positions\n"
        )
    assert megabytes <= promise.megabytes
    for one in fidelity.values():
        assert one.positions >= 6000
        assert one.kl_mean <= promise.kl, one
    first, second = fidelity.values()
    assert abs(first.kl_mean - second.kl_mean) < GAP
