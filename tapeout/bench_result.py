"""What a benchmark found, as data and as tables."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from validate.measurement import Sampled
from validate.resampling import median_interval

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class SubjectResult:
    """One model in one runtime.

    Attributes:
        name: in tables.
        kind: of runtime.
        ours: a package of ours rather than a peer.
        bytes: size of its files.
        settings: runtime properties it was loaded with, beside the number of threads.
        versions: of the runtimes installed beside it.
        ttft_ms: time to the first token by prompt length.
        tokens_per_s: rate of the tokens after it, by prompt length.
        kl: mean KL divergence from the float model, nats per token; None where no reference was given.
        top1: share of positions where both name the same most likely token.
    """

    name: str
    kind: str
    ours: bool
    bytes: int
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    ttft_ms: Mapping[str, Sampled]
    tokens_per_s: Mapping[str, Sampled]
    kl: float | None
    top1: float | None


@dataclass(frozen=True)
class PeerRatio:
    """A package over a peer at one prompt length, round by round: the median of the rounds' ratios and its interval."""

    package: str
    peer: str
    prompt: str
    ttft: Sampled
    tokens_per_s: Sampled


@dataclass(frozen=True)
class Bench:
    """A whole run.

    Attributes:
        created: ISO 8601 time of its end.
        tapeout: version.
        host: the machine.
        plan: how much was timed.
        subjects: packages and peers in the order they were named.
        ratios: every package over every peer.
        schema_version: of this layout.
    """

    created: str
    tapeout: str
    host: Mapping[str, Any]
    plan: Mapping[str, Any]
    subjects: tuple[SubjectResult, ...]
    ratios: tuple[PeerRatio, ...]
    schema_version: int = SCHEMA_VERSION


def figure(samples: Sequence[float]) -> Sampled:
    """The median with a 95 % percentile-bootstrap interval."""
    low, high = median_interval(samples)
    return Sampled(float(statistics.median(samples)), low, high, tuple(round(value, 6) for value in samples))


def compare(results: Sequence[SubjectResult]) -> Iterator[PeerRatio]:
    """Every package over every peer.

    Both ran in the same round, minutes apart at most, so that what slows the whole machine cancels.
    """
    for package in (one for one in results if one.ours):
        for peer in (one for one in results if not one.ours):
            for length in package.ttft_ms:
                yield PeerRatio(
                    package.name,
                    peer.name,
                    length,
                    ratio(package.ttft_ms[length], peer.ttft_ms[length]),
                    ratio(package.tokens_per_s[length], peer.tokens_per_s[length]),
                )


def ratio(after: Sampled, before: Sampled) -> Sampled:
    """Sample over sample."""
    return figure([mine / theirs for mine, theirs in zip(after.samples, before.samples, strict=True)])


def markdown(bench: Bench) -> str:
    """Two tables: what was measured, and packages over peers."""
    lengths = [str(length) for length in bench.plan["prompts"]]
    heads = ["", *(f"TTFT {n}" for n in lengths), *(f"decode at {n}" for n in lengths), "size", "KL", "top-1"]
    lines = [*header(heads)]
    for one in bench.subjects:
        cells = [f"**{one.name}**" if one.ours else one.name]
        cells += [f"{one.ttft_ms[n].median:.0f} ms" for n in lengths]
        cells += [f"{one.tokens_per_s[n].median:.1f} tok/s" for n in lengths]
        cells += [f"{one.bytes / 1e6:.0f} MB", "" if one.kl is None else f"{one.kl:.4f}"]
        lines.append(row([*cells, "" if one.top1 is None else f"{one.top1:.1%}".replace("%", " %")]))
    heads = ["package / peer", *(f"TTFT {n}" for n in lengths), *(f"decode at {n}" for n in lengths)]
    lines += ["", *header(heads)]
    pairs = {(one.package, one.peer): None for one in bench.ratios}
    found = {(one.package, one.peer, one.prompt): one for one in bench.ratios}
    for package, peer in pairs:
        each = [found[package, peer, n] for n in lengths]
        cells = [*(shown(one.ttft) for one in each), *(shown(one.tokens_per_s) for one in each)]
        lines.append(row([f"{package} / {peer}", *cells]))
    return "\n".join(lines) + "\n"


def shown(sampled: Sampled) -> str:
    """A ratio with its interval."""
    return f"{sampled.median:.2f} ({sampled.low:.2f} to {sampled.high:.2f})"


def header(cells: Sequence[str]) -> list[str]:
    """The two first lines of a Markdown table."""
    return [row(cells), "|---" * len(cells) + "|"]


def row(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cells)} |"
