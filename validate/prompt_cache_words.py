"""A shipped prompt cache in sentences."""

from collections.abc import Iterator

from validate.figures import figure, megabytes, percent
from validate.package_measurement import Measurement
from validate.prompt_cache_measure import CachedPrompt


def prompt_cache_sentences(measurement: Measurement) -> Iterator[str]:
    """What the state of the prefix saves and whether it changes anything, or why there is none."""
    if measurement.prompt_cache_refused is not None:
        yield f"Prompt cache: none, since {measurement.prompt_cache_refused}."
    found = measurement.prompt_cache
    if found is not None:
        yield (
            f"Prompt cache: {found.words} tokens behind a prefix of {found.tokens} are answered after"
            f" {figure(found.ttft_ms.median)} ms with its state loaded ({megabytes(found.state_bytes)} MB), and after"
            f" {figure(found.ttft_without_ms.median)} ms without: {figure(found.ratio)} of the time"
            f" (n = {len(found.ttft_ms.samples)}); loading takes {figure(found.load_s)} s with it and"
            f" {figure(found.load_without_s)} s without; {proof(found)}."
        )


def proof(found: CachedPrompt) -> str:
    """What was compared, and how it came out."""
    same = (
        "are the same, bit for bit,"
        if found.bit_equal
        else f"differ by at most {figure(found.largest_difference)} from those"
    )
    return (
        f"the logits of {found.positions} positions {same} as after computing the prefix; from one prompt over all, KL"
        f" {figure(found.kl_mean)} and top-1 {percent(found.top1)} %"
    )
