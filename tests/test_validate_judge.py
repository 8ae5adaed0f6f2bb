"""Gates that stand between a device and a silent fallback."""

from dataclasses import replace

import pytest

from targets.gates import Gates
from targets.status import Verdict
from validate.judge import judge
from validate.measurement import DeviceGap, Placement
from validate.package_measurement import Measurement
from validate.report import GateResult

GATES = Gates(
    kl_mean_max=1, top1_min=0, perplexity_ratio_max=9, runtime_kl_gap_max=1, device_kl_max=0.01, device_top1_min=0.97
)
HTP = Placement("decode", "QNN", {"QNN": 300}, {"QNN": 90_000_000})


def gate(measurement: Measurement, name: str, off_device: tuple[str, ...] = ()) -> GateResult | None:
    return {each.name: each for each in judge(measurement, 1, GATES, None, off_device)}.get(name)


def placement(measurement: Measurement, off_device: tuple[str, ...] = ()) -> GateResult:
    found = gate(measurement, "placement", off_device)
    assert found is not None
    return found


def test_everything_on_the_device_passes() -> None:
    assert placement(Measurement(placements=(HTP,))).verdict is Verdict.PASS


@pytest.mark.parametrize("placements", [(), (replace(HTP, operators={}),)], ids=["not asked", "no operator"])
def test_no_placement_never_passes(placements: tuple[Placement, ...]) -> None:
    assert placement(Measurement(placements=placements)).verdict is not Verdict.PASS


def test_one_operator_off_the_device_fails_by_name_in_whatever_session_it_is() -> None:
    strayed = replace(HTP, session="prefill", operators={"QNN": 299, "CPU": 1}, elsewhere={"Gather": 1})
    found = placement(Measurement(placements=(HTP, strayed)))
    assert found.verdict is Verdict.FAIL
    assert found.reason == "prefill was asked for on QNN, the runtime put 1 on CPU, 299 on QNN: 1 Gather off it"
    assert found.value == pytest.approx(599 / 600)


def test_what_the_product_allows_elsewhere_passes_and_nothing_more() -> None:
    strayed = replace(HTP, operators={"QNN": 298, "CPU": 2}, elsewhere={"Gather": 2})
    measured = Measurement(placements=(strayed,))
    assert placement(measured, ("Gather",)).verdict is Verdict.PASS
    assert placement(measured, ("MatMul",)).verdict is Verdict.FAIL


def test_an_operator_elsewhere_whose_type_the_runtime_hides_fails() -> None:
    hidden = replace(HTP, operators={"QNN": 298, "CPU": 2}, elsewhere={"Gather": 1})
    found = placement(Measurement(placements=(hidden,)), ("Gather",))
    assert found.verdict is Verdict.FAIL
    assert "1 of unnamed type" in str(found.reason)


def test_a_device_that_is_here_needs_no_stand_in() -> None:
    assert gate(Measurement(), "device.kl_mean") is None


@pytest.mark.parametrize(
    ("gap", "kl", "top1"),
    [
        (None, Verdict.INCOMPLETE, Verdict.INCOMPLETE),
        (DeviceGap(0.002, 0.1, 0.99, 128), Verdict.PASS, Verdict.PASS),
        (DeviceGap(12.0, 40.0, 0.0, 128), Verdict.FAIL, Verdict.FAIL),
        (DeviceGap(float("nan"), 0.0, 0.99, 128), Verdict.FAIL, Verdict.PASS),
    ],
)
def test_a_stand_in_is_held_against_this_cpu(gap: DeviceGap | None, kl: Verdict, top1: Verdict) -> None:
    measured = Measurement(stand_in=True, device_gap=gap)
    found = gate(measured, "device.kl_mean"), gate(measured, "device.top1")
    assert [each and each.verdict for each in found] == [kl, top1]
