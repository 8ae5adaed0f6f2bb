"""How far a package's times can be relied on, in words: percentiles, first and later requests, restarts, drift."""

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from targets.gates import DRIFT_MAX
from targets.status import Verdict
from validate.figures import NOT_MEASURED, figure, percent
from validate.judge_steadiness import NOT_COMPARABLE
from validate.measurement import Percentile
from validate.package_measurement import Measurement
from validate.percentiles import name_of, shortage
from validate.report import Candidate, GateResult
from validate.steadiness import LEAST_PROCESSES, Restarts, drift_factor

FIRST, BETWEEN = "First token", "Between tokens"
DRIFT_GATE, SPREAD_GATE = "latency.drift", "latency.spread"


@dataclass(frozen=True)
class PercentileCell:
    """A cell of a row of percentiles.

    Attributes:
        found: the percentile, or None where there are too few samples.
        missing: why there is none.
        span: columns that the cell covers.
    """

    found: Percentile | None
    missing: str
    span: int = 1


@dataclass(frozen=True)
class PercentileRow:
    """The percentiles of one time at one prompt length, in milliseconds; at several where none of them has any.

    Attributes:
        time: which of the two times.
        prompts: lengths of the prompts, in tokens.
        n: samples at each of them.
        cells: in the order of `percentile_heads`.
    """

    time: str
    prompts: tuple[int, ...]
    n: int
    cells: tuple[PercentileCell, ...]


def percentile_heads(measurement: Measurement) -> list[str]:
    """`p50` and so on: every percentile that was asked for, ascending."""
    return [name_of(share) for share in _shares(measurement)]


def percentile_rows(measurement: Measurement) -> list[PercentileRow]:
    """One row a time and a prompt length; lengths without any figure share a row, if they lack the same."""
    shares = _shares(measurement)
    sets = [
        *((FIRST, one.prompt_tokens, one.ttft_percentiles) for one in measurement.latency),
        *((BETWEEN, one.prompt_tokens, one.interval_percentiles) for one in measurement.latency),
    ]
    rows: list[PercentileRow] = []
    for time, tokens, found in sets:
        if not found:
            continue
        row = PercentileRow(time, (tokens,), found[0].n, _cells(found, shares))
        if rows and _scarce(rows[-1]) and dataclasses.replace(rows[-1], prompts=row.prompts) == row:
            rows[-1] = dataclasses.replace(row, prompts=(*rows[-1].prompts, tokens))
        else:
            rows.append(row)
    return rows


def _scarce(row: PercentileRow) -> bool:
    return all(cell.found is None for cell in row.cells)


def resamples_of(measurement: Measurement) -> list[int]:
    """The numbers of resamples behind the intervals, ascending."""
    found = (each for one in measurement.latency for each in (*one.ttft_percentiles, *one.interval_percentiles))
    return sorted({each.resamples for each in found if each.value is not None})


def _shares(measurement: Measurement) -> list[float]:
    found = (each for one in measurement.latency for each in (*one.ttft_percentiles, *one.interval_percentiles))
    return sorted({each.share for each in found})


def _cells(found: Sequence[Percentile], shares: Sequence[float]) -> tuple[PercentileCell, ...]:
    """Columns without a figure share one cell, which says what the first of them lacks."""
    known = {each.share: each for each in found}
    cells: list[PercentileCell] = []
    for has, group in groupby((known.get(share) for share in shares), lambda one: bool(one and one.value is not None)):
        run = list(group)
        if has:
            cells += [PercentileCell(each, "") for each in run]
        else:
            lacks = next((text for each in run if each is not None and (text := shortage(each))), NOT_MEASURED)
            cells.append(PercentileCell(None, lacks, len(run)))
    return tuple(cells)


def cold_start_s(restarts: Restarts) -> float | None:
    """Seconds from the start of the process to the first token, files not in the page cache; None: never evicted."""
    cold = [each.start_to_first_token_s for each in restarts.processes if each.cold_cache]
    return statistics.median(cold) if cold else None


def warm_start_s(restarts: Restarts) -> float | None:
    """The same with the files cached, median over processes; the first process is not known to be warm."""
    warm = [each.start_to_first_token_s for each in restarts.processes[1:] if not each.cold_cache]
    return statistics.median(warm) if warm else None


def first_request_ms(restarts: Restarts) -> float | None:
    """Time to first token of the first request after loading, median over processes."""
    return statistics.median(each.first_ttft_ms for each in restarts.processes) if restarts.processes else None


def later_requests_ms(restarts: Restarts) -> float | None:
    """The same of the requests after it."""
    return statistics.median(each.ttft_ms for each in restarts.processes) if restarts.processes else None


def drift_decision(candidate: Candidate) -> str:
    """What the drift means for the times: they are comparable with their bounds, or which gates it holds open."""
    drift = candidate.measurement.drift
    if drift is None:
        return f"{NOT_MEASURED}: whether the machine stayed as it was is not known"
    gate = _gate(candidate, DRIFT_GATE)
    bound = DRIFT_MAX if gate is None else gate.bound
    factor = drift_factor(drift)
    if factor <= bound:
        return f"within a factor of {bound:g}: the times stand as measured"
    beyond = f"{NOT_COMPARABLE}: a factor of {figure(factor)}, at most {bound:g} is taken as steady"
    held = [one.name for one in candidate.gates if one.name != DRIFT_GATE and _held_open(one)]
    if held:
        return f"{beyond}; {', '.join(held)} INCOMPLETE for it"
    return f"{beyond}; no latency gate passes or fails by it"


def _held_open(gate: GateResult) -> bool:
    return gate.verdict is Verdict.INCOMPLETE and (gate.reason or "").startswith(NOT_COMPARABLE)


def spread_decision(candidate: Candidate) -> str:
    """What the spread over process restarts means, or what it lacks."""
    restarts = candidate.measurement.restarts
    gate = _gate(candidate, SPREAD_GATE)
    if restarts is None:
        return NOT_MEASURED
    if restarts.spread is None:
        count = len(restarts.processes)
        return f"not enough process restarts for a spread (n = {count}, need {LEAST_PROCESSES})"
    if gate is None:
        return "no limit is set in the target"
    return f"{gate.verdict.value}: at most {percent(gate.bound)} % is allowed"


def _gate(candidate: Candidate, name: str) -> GateResult | None:
    return next((gate for gate in candidate.gates if gate.name == name), None)


def steadiness_sentences(candidate: Candidate) -> Iterator[str]:
    """What decides how far the times can be relied on; nothing where nothing was timed."""
    measured = candidate.measurement
    if not measured.latency:
        return
    longest = max(one.prompt_tokens for one in measured.latency)
    yield from (
        f"{row.time} at a prompt of {longest} tokens: {', '.join(map(_cell_text, row.cells))}."
        for row in percentile_rows(measured)
        if longest in row.prompts
    )
    yield f"Drift {figure(measured.drift, 4)}: {drift_decision(candidate)}."
    restarts = measured.restarts
    if restarts is None:
        yield f"Process restarts: {NOT_MEASURED}."
        return
    start = f"cold {_seconds(cold_start_s(restarts))}, warm {_seconds(warm_start_s(restarts))}"
    yield (
        f"First request {figure(first_request_ms(restarts))} ms to the first token, later ones"
        f" {figure(later_requests_ms(restarts))} ms ({restarts.prompt_tokens} tokens,"
        f" {len(restarts.processes)} processes); from process start to the first token: {start}."
    )
    share = "" if restarts.spread is None else f" {percent(restarts.spread)} %"
    yield f"Spread over restarts{share}: {spread_decision(candidate)}."


def _seconds(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{figure(value)} s"


def _cell_text(cell: PercentileCell) -> str:
    found = cell.found
    if found is None:
        return cell.missing
    return f"{name_of(found.share)} {figure(found.value)} ms (below {figure(found.upper)} ms with 99 % confidence)"
