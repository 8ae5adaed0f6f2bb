"""What a comparison says of a package whose device is not here."""

import dataclasses

from tests.sample_report import candidate
from validate.comparison import compare, key_figures
from validate.figures import NOT_MEASURED
from validate.measurement import BoundaryGap, DeviceGap
from validate.readings import STAND_IN
from validate.report import Candidate

EDGE = "Largest KL at the edges of static shapes"


def simulated() -> Candidate:
    """A package that ran in a simulator, on few positions."""
    here = candidate("openvino", "w8-asym")
    measured = dataclasses.replace(
        here.measurement,
        stand_in=True,
        latency=(),
        loading=None,
        device_gap=DeviceGap(2e-5, 1e-4, 1.0, 124),
        boundaries=(BoundaryGap(63, 1e-5, 3e-5, True), BoundaryGap(64, 2e-5, 1e-5, True)),
    )
    return dataclasses.replace(here, measurement=measured)


def test_what_a_simulator_computed_is_not_the_package_deployed() -> None:
    rows = {(row.group == STAND_IN, row.label): row.cells[0] for row in compare([simulated()])}
    for label in ("KL, deployed", "KL, 99th percentile", "KL, prefill", "Top-1 agreement"):
        assert rows[False, label].text == NOT_MEASURED
    assert rows[False, "KL, weights"].text != NOT_MEASURED
    assert rows[True, "KL from the float model"].text != NOT_MEASURED
    assert (rows[True, "KL from this CPU, same weights"].text, rows[True, "KL from this CPU, same weights"].n) == (
        "2.00e-05",
        124,
    )
    assert (rows[True, EDGE].text, rows[True, EDGE].n) == ("3.00e-05", 2)
    assert key_figures(simulated(), 512).kl_deployed == NOT_MEASURED


def test_a_device_that_is_here_has_no_such_rows() -> None:
    here = candidate("openvino", "w8-asym")
    assert STAND_IN not in {row.group for row in compare([here])}
    assert key_figures(here, 512).kl_deployed != NOT_MEASURED
    plain = simulated()
    without = dataclasses.replace(plain, measurement=dataclasses.replace(plain.measurement, boundaries=()))
    assert EDGE not in {row.label for row in compare([without])}
