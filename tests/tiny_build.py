"""Build requests small enough for tests: a tiny model, a short golden set, two runtimes or none."""

from pathlib import Path

from tapeout.executor import Done
from tapeout.jobs import Job, Request
from targets.probe import probe_host
from targets.target import Target, load_target
from validate.plans import GoldenPlan, LatencyPlan

GOLDEN = GoldenPlan(
    windows=2,
    weights_windows=2,
    window_tokens=48,
    decode_tokens=8,
    prompts=2,
    answer_tokens=4,
    top=32,
    sampled=32,
    long_tokens=48,
    long_after=32,
)
# Two restarts give figures without a spread, which takes three: a process loads a runtime for one or two seconds.
LATENCY = LatencyPlan(new_tokens=4, rounds=3, restarts=2)

TARGET = """
schema = 1
name = "bench"
product = "A test bench."
prompt_lengths = [8, 16]
{gates}
[[devices]]
name = "cpu"
kind = "cpu"
vendor = "any"
generation = "any"
[[devices.runtimes]]
backend = "openvino"
legality = "openvino-cpu"
schemes = ["w4-sym-g32", "w8-sym"]
status = "host-measured"
[[devices.runtimes]]
backend = "onnxruntime"
legality = "onnxruntime-cpu"
schemes = ["w4-sym-g32", "w8-sym"]
status = "host-measured"
[[devices]]
name = "npu"
kind = "npu"
vendor = "any"
generation = "any"
[[devices.runtimes]]
backend = "ryzen-ai"
legality = "amd-npu-xdna2"
schemes = ["w4-asym-g128"]
missing = "No back end."
next_step = "Write one."
"""

GATES = """
[limits]
package_mb_max = {package_mb_max}
[gates.int8]
kl_mean_max = {int8}
top1_min = 0.5
perplexity_ratio_max = 2.0
runtime_kl_gap_max = 0.01
[gates.int4]
kl_mean_max = {int4}
top1_min = 0.0
perplexity_ratio_max = 9.0
runtime_kl_gap_max = 0.01
"""


def bench(folder: Path, int8: float = 1.0, int4: float = 0.0, package_mb_max: float = 1024.0) -> Target:
    """A target with two runtimes on the CPU and an NPU that nothing builds for; `int8` and `int4` bound mean KL."""
    path = folder / "bench.toml"
    gates = GATES.format(int8=int8, int4=int4, package_mb_max=package_mb_max)
    path.write_text(TARGET.format(gates=gates), encoding="utf-8")
    return load_target(str(path))


def request(target: Target | str, model: Path, precision: str = "ladder") -> Request:
    """A request for a local Hugging Face folder."""
    return Request(
        target=load_target(target) if isinstance(target, str) else target,
        source=str(model),
        precision=precision,
        host=probe_host(),
        downloads=str(model.parent / "downloads"),
        golden=GOLDEN,
        latency=LATENCY,
    )


class Heard:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.reasons: dict[str, str] = {}
        self.cached: list[str] = []
        self.notes: list[str] = []

    def noted(self, text: str) -> None:
        self.notes.append(text)

    def started(self, job: Job, why: str) -> None:
        self.ran.append(f"{job.stage} {job.label}".strip())
        self.reasons[job.stage] = why

    def advanced(self, job: Job, done: int, total: int) -> None:
        assert 0 <= done <= total

    def waiting(self, job: Job) -> None:
        self.reasons[f"{job.stage} waits"] = "another build"

    def finished(self, job: Job, result: Done) -> None:
        if result.cached:
            self.cached.append(f"{job.stage} {job.label}".strip())
