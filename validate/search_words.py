"""A search in sentences: what was tried, and when nothing passes which weights stand in the way and what would pass."""

from collections.abc import Iterator

from validate.figures import figure, megabytes
from validate.report import Report
from validate.search_report import SearchReport, Tried

WORST_LAYERS = 5


def search_head(found: SearchReport) -> str:
    """One line: how a search ended."""
    chosen = f"{found.chosen} is the smallest that passes" if found.chosen else "none passes"
    budget = f" of at most {megabytes(found.weight_bytes_max)} MB of weights" if found.weight_bytes_max else ""
    return f"search on {found.device}: {len(found.tried)} of {found.candidates} recipes{budget} tried, {chosen}"


def search_lines(report: Report, found: SearchReport) -> Iterator[str]:
    """Each recipe in the order it was tried, then why the search ended and, without a winner, what it says of that."""
    yield from map(tried_sentence, found.tried)
    yield f"ended: {found.stopped}"
    yield from failure_lines(report, found)


def tried_sentence(tried: Tried) -> str:
    """One recipe."""
    kl = "not measured" if tried.kl is None else f"KL {figure(tried.kl)}"
    front = ", on the front" if tried.on_front else ""
    verdict = "passes" if tried.passed else f"fails ({tried.reason})" if tried.reason else "fails"
    return f"{tried.recipe}: {megabytes(tried.weight_bytes)} MB, {kl}, {verdict}{front}"


def failure_lines(report: Report, found: SearchReport) -> Iterator[str]:
    """Nothing where a recipe passes; else the weights and layers that cost the nearest most, and what would pass."""
    if found.chosen:
        return
    if found.guilty:
        each = ", ".join(f"{cost.name} {figure(cost.kl)}" for cost in found.guilty)
        yield f"what costs {found.nearest} most, each weight rounded alone: {each}"
    if report.layer_costs:
        ranked = sorted(enumerate(report.layer_costs), key=lambda pair: (-pair[1], pair[0]))[:WORST_LAYERS]
        yield "layers that cost most, each rounded alone: " + ", ".join(f"{n}: {figure(kl)}" for n, kl in ranked)
    yield would_pass_sentence(found)


def would_pass_sentence(found: SearchReport) -> str:
    """What is expected to pass, though it was not tried."""
    one = found.would_pass
    if one is None:
        return "no recipe that this device takes is expected to pass"
    over = found.weight_bytes_max is not None and one.weight_bytes > found.weight_bytes_max
    beyond = ", which is over the byte budget" if over else ""
    return f"expected to pass, not tried: {one.recipe}, {megabytes(one.weight_bytes)} MB{beyond}, KL {figure(one.kl)}"
