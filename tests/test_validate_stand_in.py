"""A device that is not here: what is measured in its place, and what is left unmeasured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compile.package import Package
from export.hub import OnnxModel
from targets.status import Status, Verdict
from targets.target import load_target
from tests.conftest import Packages
from tests.tiny_build import GOLDEN
from validate.boundaries import largest_kl
from validate.golden import Golden, measure_golden
from validate.judge import judge
from validate.measurement import BoundaryGap, Placement
from validate.openvino_runtime import OpenVino
from validate.runtime import DEPLOYED, WEIGHTS, Coverage, Session
from validate.stand_in import measure_gap, measure_stand_in

COVERAGE = Coverage(windows=1, prefill=8, decode=4)


class Noisy:
    """A session whose every logit is off a little."""

    def __init__(self, session: Session, noise: float) -> None:
        self.session, self.noise = session, noise
        self.rng = np.random.default_rng(0)

    def reset(self) -> None:
        self.session.reset()

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        logits = self.session.step(tokens)
        return (logits + self.noise * self.rng.standard_normal(logits.shape)).astype(np.float32)


class Simulator:
    """OpenVINO on this CPU in the place of a device, with an error of its own."""

    coverage: Coverage | None = COVERAGE

    def __init__(self, evidence: Status, noise: float) -> None:
        self.evidence: Status | None = evidence
        self.noise = noise
        self.opened: list[str] = []

    def session(self, package: Path, settings: Mapping[str, Any], setting: str) -> Session:
        self.opened.append(setting)
        session = OpenVino().session(package, settings, WEIGHTS)
        return Noisy(session, self.noise) if setting == DEPLOYED else session

    def pipeline(self, package: Path, settings: Mapping[str, Any]) -> None:
        return None

    def placement(self, package: Path, settings: Mapping[str, Any]) -> tuple[Placement, ...]:
        return OpenVino().placement(package, settings)

    def versions(self) -> dict[str, str]:
        return {"simulator": "1"}


class Edged(Simulator):
    """A device of fixed shapes that goes wrong where a prompt fills its chunk of 8."""

    def boundaries(self, package: Path, settings: Mapping[str, Any]) -> tuple[Session, tuple[int, ...]]:
        return WrongAt(self.session(package, settings, WEIGHTS), 8), (7, 8, 9, 10_000)


class WrongAt:
    """A session that is wrong after one prompt length, and right everywhere else."""

    def __init__(self, session: Session, length: int) -> None:
        self.session, self.length = session, length

    def reset(self) -> None:
        self.session.reset()

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        logits = self.session.step(tokens)[-1:]
        return -logits if len(tokens) == self.length else logits


@pytest.fixture(scope="module")
def package(tiny_packages: Packages) -> Package:
    return tiny_packages["llama", "w8-sym", "openvino"]


@pytest.fixture(scope="module")
def golden(tiny_hub: OnnxModel, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    return measure_golden(tiny_hub, GOLDEN, tmp_path_factory.mktemp("golden"), lambda done, total: None)


@pytest.mark.parametrize(("noise", "right"), [(0.0, True), (3.0, False)])
def test_the_gap_is_that_of_the_stand_in(package: Package, golden: Golden, noise: float, right: bool) -> None:
    runtime = Simulator(Status.SIMULATED, noise)
    seen: list[int] = []
    measured = measure_stand_in(runtime, package, golden, lambda done, total: seen.append(done))
    assert measured.stand_in
    assert measured.ran is Status.SIMULATED
    assert measured.device_gap is not None
    assert measured.device_gap.positions == COVERAGE.windows * COVERAGE.tokens
    assert measured.fidelity[DEPLOYED].positions == measured.device_gap.positions
    assert measured.fidelity[WEIGHTS].positions == GOLDEN.weights_windows * GOLDEN.window_tokens
    assert (measured.device_gap.kl_mean < 1e-9) is right
    assert (measured.device_gap.top1 == 1.0) is right
    assert (measured.latency, measured.loading, measured.answers) == ((), None, ())
    assert seen == sorted(seen)


def test_a_fault_at_the_edge_of_a_static_shape_is_measured_and_fails_its_gate(package: Package, golden: Golden) -> None:
    """It touches no position of the golden windows, whose prompts end elsewhere."""
    measured = measure_stand_in(Edged(Status.EMULATED, 0.0), package, golden, lambda done, total: None)
    assert measured.device_gap is not None
    assert measured.device_gap.kl_mean < 1e-9
    assert [each.prompt_tokens for each in measured.boundaries] == [7, 8, 9]
    assert [each.agrees for each in measured.boundaries] == [True, False, True]
    gates = load_target("core-ultra").gates["int8"]
    judged = {gate.name: gate for gate in judge(measured, package.package_bytes, gates)}
    assert judged["device.kl_mean"].verdict is Verdict.PASS
    assert judged["device.boundary_kl"].verdict is Verdict.FAIL
    assert judged["device.boundary_kl"].value == largest_kl(measured.boundaries)
    right = measure_stand_in(Simulator(Status.EMULATED, 0.0), package, golden, lambda done, total: None)
    assert "device.boundary_kl" not in {gate.name for gate in judge(right, package.package_bytes, gates)}


def test_what_is_not_a_number_at_an_edge_fails() -> None:
    assert np.isnan(largest_kl([BoundaryGap(1, 0.1, float("nan"), True), BoundaryGap(2, 0.2, 0.3, True)]))
    assert largest_kl([BoundaryGap(1, 0.1, 0.05, True), BoundaryGap(2, 0.2, 0.3, True)]) == 0.3


def test_what_cannot_run_here_has_the_fidelity_of_its_weights_alone(package: Package, golden: Golden) -> None:
    runtime = Simulator(Status.PREPARED, 0.0)
    measured = measure_stand_in(runtime, package, golden, lambda done, total: None)
    assert runtime.opened == [WEIGHTS]
    assert (set(measured.fidelity), measured.ran, measured.device_gap) == ({WEIGHTS}, None, None)


def test_the_gap_is_over_the_whole_vocabulary() -> None:
    ours = np.log(np.array([[0.7, 0.2, 0.1]], dtype=np.float32))
    theirs = np.log(np.array([[0.1, 0.2, 0.7]], dtype=np.float32))
    gap = measure_gap(iter([(ours, theirs), (ours, ours)]))
    assert gap.kl_max == pytest.approx(0.7 * np.log(7) - 0.1 * np.log(7), rel=1e-5)
    assert gap.kl_mean == pytest.approx(gap.kl_max / 2, rel=1e-5)
    assert (gap.top1, gap.positions) == (0.5, 2)
