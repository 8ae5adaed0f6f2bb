"""Calibration of the tiny decoders: a few short sequences, and the cost of each weight on them."""

from pathlib import Path

from export.model import Model
from quantize.calibrated import CalibratedInputs
from quantize.calibration import Calibration, calibrate
from quantize.calibration_plan import CalibrationPlan
from quantize.sensitivity import SensitivityPlan, measure_sensitivity

PLAN = CalibrationPlan(sequences=8, tokens=48)


def ignore(done: int, total: int) -> None:
    """A progress that nobody watches."""


def tiny_calibration(model: Model, folder: Path) -> Calibration:
    """Eight sequences that the model wrote; `folder` must not exist yet."""
    folder.mkdir()
    return calibrate(model, PLAN, None, folder, ignore)


def tiny_inputs(model: Model, folder: Path, scheme: str = "w4-sym-g32") -> CalibratedInputs:
    """Calibration and sensitivity below the empty `folder`."""
    calibration = tiny_calibration(model, folder / "calibration")
    plan = SensitivityPlan(sequences=4, tokens=32)
    return CalibratedInputs(model, calibration, measure_sensitivity(model, calibration, scheme, plan, folder, ignore))
