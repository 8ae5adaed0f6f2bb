"""A package's roofline in a sentence."""

from collections.abc import Iterator

from validate.figures import figure, percent
from validate.package_measurement import Measurement
from validate.prompt_cache_words import prompt_cache_sentences
from validate.roofline import Roofline

MEANING = {
    "bandwidth": "bandwidth-bound: fewer bytes a token make it faster",
    "overhead": "overhead-bound: fewer bytes would hardly make it faster, less work around each would",
}
GIGA = 1e9


def roofline_sentences(measurement: Measurement) -> Iterator[str]:
    """What one token reads, what this machine can read, and which of the two decides; at the longest prompt."""
    found = measurement.roofline
    if found is None or not found.points:
        return
    point = found.points[-1]
    read, reached = figure(point.bytes_per_token / 1e6), percent(point.fraction)
    yield (
        f"At {point.context_tokens} tokens of context a token reads {read} MB; {roof_words(found)} {figure(point.roof)}"
        f" tok/s; {figure(point.tokens_per_second)} are reached ({reached} %): {MEANING[point.bound]}."
    )


def speed_sentences(measurement: Measurement) -> Iterator[str]:
    """Whether memory decides how fast a package is, and what a prompt cache saves it."""
    yield from roofline_sentences(measurement)
    yield from prompt_cache_sentences(measurement)


def roof_words(found: Roofline) -> str:
    """What was measured of the machine."""
    threads = found.bandwidth.threads
    speed = figure(found.bandwidth.bytes_per_second / GIGA)
    return f"the {speed} GB/s that {threads} {'thread' if threads == 1 else 'threads'} read here allow"
