"""What users feel, in sentences: the suites, the user's questions, stability, the tokenizer and the KV cache."""

from collections.abc import Iterator
from dataclasses import dataclass

from validate.figures import figure
from validate.kv_cache import KvCache
from validate.package_measurement import Measurement
from validate.paired import Paired
from validate.parity import TokenizerParity
from validate.stability import Stability
from validate.vehicle_guided import GuidedCalls


@dataclass(frozen=True)
class Compared:
    """Right and wrong answers of a package and the float model to the same items.

    Attributes:
        name: what was asked, and how much of it.
        paired: the statistics.
        agreement: share of items that both answer alike, right or wrong.
    """

    name: str
    paired: Paired
    agreement: float


def felt_sentences(measurement: Measurement) -> list[str]:
    """What was measured of a package beside divergence and speed, and how much of it was asked."""
    said = [paired_sentence(each.name, each.paired, each.agreement) for each in compared(measurement)]
    felt = measurement.felt
    if felt is not None and felt.guided is not None:
        said.append(guided_sentence(felt.guided))
    if felt is not None and felt.stability is not None:
        said.append(stability_sentence(felt.stability))
    if measurement.parity is not None:
        said.append(parity_sentence(measurement.parity))
    if measurement.kv_cache is not None:
        said.extend(cache_sentences(measurement.kv_cache))
    return said


def compared(measurement: Measurement) -> list[Compared]:
    """Everything that was answered by both."""
    felt = measurement.felt
    found = []
    if felt is not None and felt.ranking is not None:
        ranked = felt.ranking
        asked = f"In-vehicle suite, ranking {ranked.requests} of {ranked.of} requests"
        found.append(Compared(asked, ranked.paired, ranked.agreement))
    if felt is not None and felt.calls is not None:
        name = f"In-vehicle suite, {felt.calls.requests} calls written as constrained JSON"
        found.append(Compared(name, felt.calls.paired, felt.calls.agreement))
        found.append(Compared(f"{name}, the tool alone", felt.calls.paired_tool, felt.calls.tool_agreement))
    if felt is not None and felt.choices is not None:
        choices = felt.choices
        found.append(Compared(f"Multiple choice, {choices.items} questions", choices.paired, choices.agreement))
    return found


def guided_sentence(found: GuidedCalls) -> str:
    """What came of the runtime's own structured output."""
    return f"The runtime's own structured output: {percent(found.valid)} of {found.requests} are valid calls."


def paired_sentence(name: str, found: Paired, agreement: float) -> str:
    """Right answers of both on the same items, what loss is ruled out, and how many items the margin needs."""
    accuracy = f"{percent(found.reference_accuracy)} right by the float model, {percent(found.candidate_accuracy)} here"
    interval = f"difference {percent(found.difference)} (95 % interval {percent(found.low)} to {percent(found.high)})"
    ruled = f"a loss above {percent(max(-found.bound, 0.0))} is ruled out with 95 % confidence"
    shown = "is shown" if found.non_inferior else "is not shown"
    needed = f"no loss beyond {percent(found.margin)} {shown}, which needs n = {found.needed} and has n = {found.items}"
    return f"{name}: {accuracy}; {interval}; {ruled}; {needed}; both choose alike in {percent(agreement)}."


def stability_sentence(found: Stability) -> str:
    """Greedy answers beside the float model's."""
    return (
        f"Greedy answers to {found.prompts} prompts: {percent(found.identical)} are the float model's to the end, the"
        f" median parts from it at token {figure(found.divergence)}; repetition {percent(found.repetition)}"
        f" ({percent(found.reference_repetition)} by the float model), ended by themselves {percent(found.end_rate)}"
        f" ({percent(found.reference_end_rate)}), length ratio {figure(found.length_ratio)}."
    )


def parity_sentence(found: TokenizerParity) -> str:
    """How much was compared between the runtime's tokenizer and the model's."""
    skipped = (
        f"; {found.skipped} not asked: the model's template refuses them or knows no tools" if found.skipped else ""
    )
    return (
        f"Tokenizer and chat template: {found.total} of {found.compared} texts differ from the model's own"
        f" ({sum(found.strings.values())} strings for ids and round trip,"
        f" {found.conversations} conversations{skipped})."
    )


def cache_sentences(found: KvCache) -> Iterator[str]:
    """Bytes per token before and after, and what the narrower cache costs."""
    shipped = found.shipped
    if found.saving >= 0:
        saved = f"{percent(found.saving)} less than the {found.bytes_per_token_16bit} of 16 bits"
    else:
        saved = f"{percent(-found.saving)} more than the {found.bytes_per_token_16bit} of 16 bits"
    sentence = f"KV cache in {shipped.precision}: {shipped.bytes_per_token} bytes per token, {saved}"
    if found.positions and shipped.kl_cost is not None:
        where = f"{found.positions} positions beyond {found.after} tokens"
        yield f"{sentence}; it costs KL {figure(shipped.kl_cost)} against {found.baseline} at {where}."
    else:
        yield f"{sentence}; no narrower cache ships, so nothing is compared at long context."


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{100 * share:.3g} %"
