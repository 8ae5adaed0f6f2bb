"""The real SmolLM2 for the HTP: compiled whole, and the simulator against this host's CPU."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from compile.qnn_backend import QnnBackend
from export.catalog import CATALOG, fetch
from export.hub import export_hub
from export.model import import_model
from export.source import CatalogName
from quantize.activation_ranges import measure_ranges
from quantize.calibration import calibrate
from quantize.calibration_plan import CalibrationPlan
from quantize.quantizer import quantize_model
from tests.htp_simulator import needs_htp
from validate.golden import window_tokens
from validate.plans import GoldenPlan
from validate.qnn_runtime import PROVIDER, Qnn
from validate.runtime import DEPLOYED, WEIGHTS
from validate.stand_in import measure_gap
from validate.windows import feed

DOWNLOADS = Path(__file__).resolve().parents[1] / "artifacts" / ".downloads"
PREFILL, DECODE = 64, 1
CALIBRATION = CalibrationPlan(sequences=16, tokens=128)
MINUTES_20 = 1200  # of this process; other programs of the machine do not count


def ignore(done: int, total: int) -> None:
    """Progress that nobody watches."""


@needs_htp
@pytest.mark.truth
@pytest.mark.deep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("activations", ["float16", "uint16"])
def test_smollm2_runs_whole_on_the_htp_as_on_the_cpu(new_folder: Callable[[str], Path], activations: str) -> None:
    from tokenizers import Tokenizer

    fetch(CATALOG["smollm2-135m"], DOWNLOADS)
    model = import_model(CatalogName("smollm2-135m"), new_folder("smollm2"), DOWNLOADS)
    hub = export_hub(model, new_folder("hub"))
    quantized = quantize_model(hub, "w4-sym-g64", new_folder("quantized"), ignore)
    ranges = None
    if activations == "uint16":
        calibration = calibrate(model, CALIBRATION, None, new_folder("calibration"), ignore)
        ranges = measure_ranges(quantized, calibration, new_folder("ranges"), ignore)
    start = time.process_time()
    options: Mapping[str, str | int] = {"soc_model": 60, "htp_arch": 73, "activations": activations}
    package = QnnBackend().compile_package(quantized, options, new_folder("package"), ranges)
    runtime = Qnn()
    for placement in runtime.placement(package.folder, package.settings):
        assert (set(placement.operators), placement.elsewhere) == ({PROVIDER}, {})
    tokenizer = Tokenizer.from_file(str(package.folder / "tokenizer.json"))
    tokens = window_tokens(tokenizer, GoldenPlan(windows=1, window_tokens=PREFILL + DECODE))[0]
    cpu, htp = (
        feed(runtime.session(package.folder, package.settings, setting), np.asarray(tokens), PREFILL)
        for setting in (WEIGHTS, DEPLOYED)
    )
    gap = measure_gap(iter([(cpu, htp)]))
    assert gap.positions >= 64
    assert gap.kl_mean <= 0.01
    assert gap.top1 >= 0.97
    assert time.process_time() - start < MINUTES_20
