"""Measure a package whose device is not here: its weights on this CPU, its numerics in a simulator or an emulator."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from compile.package import Package
from targets.status import Status
from validate.answers import measure_answers
from validate.boundaries import measure_boundaries
from validate.fidelity import log_softmax, score_window, summarise
from validate.golden import Golden
from validate.measurement import BoundaryGap, DeviceGap, Fidelity
from validate.package_measurement import Measurement
from validate.runtime import DEPLOYED, WEIGHTS, Coverage, Runtime, StaticShapes
from validate.windows import deployed_coverage, feed, measure_fidelity, weights_coverage

Progress = Callable[[int, int], None]
Floats = NDArray[np.float32]

PERCENT = 100
WEIGHTS_SHARE = 30  # of the progress bar


def measure_stand_in(
    runtime: Runtime, package: Package, golden: Golden, progress: Progress, screened: Fidelity | None = None
) -> Measurement:
    """Fidelity, the distance from this CPU, and answers where a pipeline runs; never latency, loading or memory.

    `screened` is the fidelity of the weights where it is known.
    """
    fidelity = {WEIGHTS: screened or measure_weights(runtime, package, golden, progress)}
    measured = Measurement(
        fidelity=fidelity,
        placements=runtime.placement(package.folder, package.settings),
        environment=runtime.versions(),
        stand_in=True,
    )
    if runtime.evidence is Status.PREPARED:
        return measured
    coverage = runtime.coverage or deployed_coverage(golden)
    fidelity[DEPLOYED], gap = compare_with_cpu(runtime, package, golden, coverage, progress)
    boundaries = compare_at_boundaries(runtime, package, golden)
    pipeline = runtime.pipeline(package.folder, package.settings)
    spoken = measure_answers(pipeline, package, golden) if pipeline is not None else Measurement()
    return dataclasses.replace(
        measured,
        ran=runtime.evidence,
        device_gap=gap,
        boundaries=boundaries,
        answers=spoken.answers,
        parity=spoken.parity,
        chat=spoken.chat,
    )


def measure_weights(runtime: Runtime, package: Package, golden: Golden, progress: Progress) -> Fidelity:
    """The distance of the weights from the float model, on this CPU."""
    session = runtime.session(package.folder, package.settings, WEIGHTS)

    def first_share(done: int, total: int) -> None:
        progress(WEIGHTS_SHARE * done // total, PERCENT)

    return measure_fidelity(session, golden, weights_coverage(golden), first_share)


def compare_with_cpu(
    runtime: Runtime, package: Package, golden: Golden, coverage: Coverage, progress: Progress
) -> tuple[Fidelity, DeviceGap]:
    """Feed the same tokens to the stand-in and to this CPU: distance from the float model, and from each other."""
    windows = golden.windows()[: coverage.windows]
    session = runtime.session(package.folder, package.settings, DEPLOYED)
    theirs: list[Floats] = []
    for tokens, _ in windows:
        theirs.append(feed(session, tokens[: coverage.tokens], coverage.prefill))
        progress(WEIGHTS_SHARE + (PERCENT - WEIGHTS_SHARE) * len(theirs) // (len(windows) + 1), PERCENT)
    del session
    session = runtime.session(package.folder, package.settings, WEIGHTS)
    ours = [feed(session, tokens[: coverage.tokens], coverage.prefill) for tokens, _ in windows]
    scores = (
        score_window(reference.part(0, coverage.tokens), logits, coverage.prefill)
        for (_, reference), logits in zip(windows, theirs, strict=True)
    )
    return summarise(scores), measure_gap(zip(ours, theirs, strict=True))


def compare_at_boundaries(runtime: Runtime, package: Package, golden: Golden) -> tuple[BoundaryGap, ...]:
    """Prompts of the golden text at the edges of the package's static shapes, beside this CPU."""
    if not isinstance(runtime, StaticShapes):
        return ()
    session, lengths = runtime.boundaries(package.folder, package.settings)
    text = np.concatenate([tokens for tokens, _ in golden.windows()])
    reference = runtime.session(package.folder, package.settings, WEIGHTS)
    return measure_boundaries(reference, session, text, lengths, lambda done, total: None)


def measure_gap(pairs: Iterator[tuple[Floats, Floats]]) -> DeviceGap:
    """Distance of the second of each pair of logits [positions, vocab] from the first, over the whole vocabulary."""
    divergences, agreements = [], []
    for cpu, device in pairs:
        ours, theirs = log_softmax(cpu), log_softmax(device)
        divergences.append((np.exp(ours, dtype=np.float64) * (ours - theirs)).sum(axis=-1))
        agreements.append(cpu.argmax(axis=-1) == device.argmax(axis=-1))
    kl = np.concatenate(divergences)
    return DeviceGap(
        kl_mean=float(kl.mean()),
        kl_max=float(kl.max()),
        top1=float(np.concatenate(agreements).mean()),
        positions=len(kl),
    )
