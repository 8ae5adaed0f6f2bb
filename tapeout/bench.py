"""Time packages and peers side by side: interleaved rounds, every run in a process of its own."""

import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tapeout.bench_result import Bench, SubjectResult, compare, figure
from tapeout.bench_subjects import Subject
from tapeout.code_version import tool_version
from targets.errors import StageFailed, TimedOut
from targets.probe import probe_host
from validate.fidelity import score_window, summarise
from validate.golden import Golden
from validate.measure import now
from validate.measurement import Fidelity

Say = Callable[[str], None]
# By prompt length: seconds to the first token, seconds a token after it.
Figures = dict[str, list[float]]

WORKER = Path(__file__).with_name("bench_worker.py")
LEAST_ROUNDS = 5
TIMEOUT_S = 1800


@dataclass(frozen=True)
class BenchPlan:
    """How much is timed.

    Attributes:
        rounds: in each, every subject runs once; the order is turned by one from round to round.
        prompts: lengths in tokens.
        new_tokens: timed after the first.
        threads: given to every runtime.
        clock: `wall`, or `cpu`: the processor time of the process, on a machine that others use too. With more threads
            than one it counts those that spin.
    """

    rounds: int = LEAST_ROUNDS
    prompts: tuple[int, ...] = (16, 512)
    new_tokens: int = 64
    threads: int = 2
    clock: str = "wall"


def run_bench(subjects: Sequence[Subject], plan: BenchPlan, golden: Golden | None, say: Say) -> Bench:
    """Time every subject, and measure its fidelity where there is a golden reference.

    Raises:
        StageFailed: a subject's process failed.
        TimedOut: one did not end.
    """
    times: dict[str, list[Figures]] = {subject.name: [] for subject in subjects}
    versions: dict[str, dict[str, str]] = {}
    for number in range(plan.rounds):
        turn = number % len(subjects)
        for subject in (*subjects[turn:], *subjects[:turn]):
            say(f"round {number + 1}/{plan.rounds}: {subject.name}")
            answer = run(subject, plan, {"task": "time"})
            times[subject.name].append(answer["figures"])
            versions[subject.name] = answer["versions"]
    results = []
    for subject in subjects:
        fidelity = None
        if golden is not None:
            say(f"fidelity: {subject.name}")
            fidelity = measure_fidelity(subject, plan, golden)
        results.append(result(subject, times[subject.name], versions[subject.name], fidelity))
    return Bench(
        created=now(),
        tapeout=tool_version("tapeout"),
        host=asdict(probe_host()),
        plan=asdict(plan),
        subjects=tuple(results),
        ratios=tuple(compare(results)),
    )


def result(
    subject: Subject, rounds: Sequence[Figures], versions: dict[str, str], fidelity: Fidelity | None
) -> SubjectResult:
    """One subject's rounds as figures."""
    return SubjectResult(
        name=subject.name,
        kind=subject.kind,
        ours=subject.ours,
        bytes=subject.bytes(),
        settings=dict(subject.settings),
        versions=versions,
        ttft_ms={length: figure([1e3 * one[length][0] for one in rounds]) for length in rounds[0]},
        tokens_per_s={length: figure([1 / one[length][1] for one in rounds]) for length in rounds[0]},
        kl=fidelity.kl_mean if fidelity else None,
        top1=fidelity.top1 if fidelity else None,
    )


def run(subject: Subject, plan: BenchPlan, task: dict[str, Any]) -> dict[str, Any]:
    """Ask a worker in the subject's own interpreter.

    Raises:
        StageFailed: it failed.
        TimedOut: it did not end.
    """
    request = {
        "kind": subject.kind,
        "path": str(subject.path),
        "settings": dict(subject.settings),
        "threads": plan.threads,
        "prompts": plan.prompts,
        "new_tokens": plan.new_tokens,
        "clock": plan.clock,
        **task,
    }
    try:
        done = subprocess.run(
            [subject.python, WORKER],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TimedOut(f"{subject.name} did not end within {TIMEOUT_S} s", "time a smaller model") from error
    if done.returncode:
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise StageFailed(
            f"{subject.name} failed with {done.returncode}: {last}", f"look whether {subject.python} has its runtime"
        )
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def measure_fidelity(subject: Subject, plan: BenchPlan, golden: Golden) -> Fidelity:
    """How far a subject, as it ships, is from the float model: most of each text as one prefill, its end by tokens."""
    windows = golden.windows()
    prefill = golden.plan.window_tokens - golden.plan.decode_tokens
    with tempfile.TemporaryDirectory() as scratch:
        task = {"task": "logits", "windows": [one.tolist() for one, _ in windows], "prefill": prefill, "out": scratch}
        run(subject, plan, task)
        return summarise(
            score_window(reference, np.load(Path(scratch) / f"{number}.npy"), prefill)
            for number, (_, reference) in enumerate(windows)
        )
