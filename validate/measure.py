"""Package + golden reference -> Measurement, through the runtime that ships."""

import dataclasses
import datetime
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compile.package import Package
from targets.errors import InputRefused
from targets.probe import probe_host
from validate.fidelity import WindowScore, score_window, summarise
from validate.golden import Golden, GoldenAnswer, texts
from validate.latency import LatencyPlan, measure_latency
from validate.load_probe import measure_loading
from validate.measurement import Answer, Fidelity, Measurement
from validate.runtime import DEPLOYED, WEIGHTS, Pipeline, Session, find_runtime

Progress = Callable[[int, int], None]

ROOM = 16  # tokens of context beyond a prompt and its answer that runtimes ask for
CONTEXT = 12  # characters shown on each side of a tokenizer mismatch

# Shares of the time, for one progress bar over everything.
STEPS = (("weights", 30), ("deployed", 20), ("answers", 10), ("latency", 30), ("loading", 10))


@dataclass(frozen=True)
class Measured:
    """The measurement of one package, as a stage's value.

    Attributes:
        folder: holds nothing but what the store requires; the figures are in `measurement`.
        measurement: the figures.
        taken: ISO 8601 time of the end of the measurement.
    """

    folder: Path
    measurement: Measurement
    taken: str


def measure_package(package: Package, golden: Golden, plan: LatencyPlan, out: Path, progress: Progress) -> Measured:
    """Measure fidelity, answers, latency, loading and placement of `package`.

    A back end without a runtime leaves every figure unmeasured.
    """
    runtime = find_runtime(package.backend)
    (out / "backend").write_text(package.backend + "\n")
    host = {name: jsonable(value) for name, value in dataclasses.asdict(probe_host()).items()}
    if runtime is None:
        return Measured(out, Measurement(host=host), now())
    report = stepper(progress)
    fidelity = {}
    for setting in (WEIGHTS, DEPLOYED):
        session = runtime.session(package.folder, package.settings, setting)
        fidelity[setting] = measure_fidelity(session, golden, setting, report(setting))
        del session
    pipeline = runtime.pipeline(package.folder, package.settings)
    answers = compare_answers(pipeline, golden.answers(), package, golden.plan.answer_tokens)
    report("answers")(1, 1)
    text = [int(token) for tokens, _ in golden.windows() for token in tokens]
    latency = measure_latency(pipeline, text, plan_that_fits(plan, package.facts.max_positions), report("latency"))
    mismatches = tokenizer_mismatches(pipeline, package.folder, [answer.user for answer in golden.answers()])
    chat_request = golden.answers()[0].user
    measurement = Measurement(
        fidelity=fidelity,
        answers=answers,
        latency=latency,
        placement=runtime.placement(package.folder, package.settings),
        tokenizer_agrees=not mismatches,
        tokenizer_mismatches=mismatches,
        chat=(chat_request, pipeline.chat(chat_request, golden.plan.answer_tokens)),
        threads=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        environment=runtime.versions(),
        host=host,
        drift=latency[0].ttft_ms.samples[-1] / latency[0].ttft_ms.samples[0],
    )
    del pipeline
    longest = max(each.prompt_tokens for each in latency)
    loading = measure_loading(package.backend, package.folder, package.settings, longest)
    report("loading")(1, 1)
    return Measured(out, dataclasses.replace(measurement, loading=loading), now())


def plan_that_fits(plan: LatencyPlan, max_positions: int) -> LatencyPlan:
    """The plan without prompts that the model's context cannot hold; a gate on one of those stays INCOMPLETE.

    Raises:
        InputRefused: not even the shortest fits.
    """
    fitting = tuple(length for length in plan.prompt_lengths if length + plan.new_tokens + ROOM <= max_positions)
    if not fitting:
        raise InputRefused(
            f"a context of {max_positions} tokens holds no prompt of {min(plan.prompt_lengths)} and an answer",
            "give the target shorter prompt_lengths",
        )
    return dataclasses.replace(plan, prompt_lengths=fitting)


def stepper(progress: Progress) -> Callable[[str], Progress]:
    """For each step of `STEPS`, a progress that fills that step's share of the whole."""

    def within(step: str) -> Progress:
        names = [name for name, _ in STEPS]
        before = sum(share for _, share in STEPS[: names.index(step)])
        share = dict(STEPS)[step]
        return lambda done, total: progress(before + share * done // total, 100)

    return within


def measure_fidelity(session: Session, golden: Golden, setting: str, progress: Progress) -> Fidelity:
    """Feed golden windows; as it ships, most of each as one prefill and the end token by token, as a product would."""
    count, one_by_one = golden.plan.windows, golden.plan.decode_tokens
    if setting == WEIGHTS:
        count, one_by_one = golden.plan.weights_windows, 0
    scores: list[WindowScore] = []
    for tokens, reference in golden.windows()[:count]:
        session.reset()
        prefill = len(tokens) - one_by_one
        logits = [session.step(tokens[:prefill])]
        logits += [session.step(tokens[index : index + 1]) for index in range(prefill, len(tokens))]
        scores.append(score_window(reference, np.concatenate(logits), prefill))
        progress(len(scores), count)
    return summarise(scores)


def compare_answers(
    pipeline: Pipeline, references: Sequence[GoldenAnswer], package: Package, limit: int
) -> tuple[Answer, ...]:
    """Answer every golden prompt greedily and find where it leaves the float model's answer."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(package.folder / "tokenizer.json"))
    answers = []
    for reference in references:
        tokens = pipeline.generate(reference.prompt_ids, limit, stop=True).tokens
        pairs = enumerate(zip(tokens, reference.answer_ids, strict=False))
        agreed = next((i for i, (ours, theirs) in pairs if ours != theirs), min(len(tokens), len(reference.answer_ids)))
        answers.append(
            Answer(
                prompt=reference.user,
                reference=reference.answer,
                text=tokenizer.decode(list(tokens)),
                agreed_tokens=agreed,
                reference_tokens=len(reference.answer_ids),
                tokens=len(tokens),
            )
        )
    return tuple(answers)


def tokenizer_mismatches(pipeline: Pipeline, folder: Path, requests: Sequence[str]) -> tuple[str, ...]:
    """Requests and golden texts that the runtime's own tokenizer reads otherwise, each around the difference."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    found = []
    for text in [*requests, *texts()]:
        ours, model = pipeline.encode(text), tokenizer.encode(text, add_special_tokens=False)
        if ours != model.ids:
            parting = next((i for i, pair in enumerate(zip(ours, model.ids, strict=False)) if pair[0] != pair[1]), 0)
            start = model.offsets[parting][0]
            found.append(text[max(0, start - CONTEXT) : start + CONTEXT])
    return tuple(found)


def jsonable(value: Any) -> Any:
    """Tuples as lists, so that a value survives a round trip through JSON unchanged."""
    return list(value) if isinstance(value, tuple) else value


def now() -> str:
    """The time, ISO 8601, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
