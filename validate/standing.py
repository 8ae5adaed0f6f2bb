"""Ours beside what else could answer: one row each, the figures that people ask for first."""

from dataclasses import dataclass

from targets.cost import Alternative
from validate import words
from validate.comparison import key_length
from validate.figures import NOT_MEASURED, count, figure, percent
from validate.readings import decode_speed, time_to_first_token
from validate.report import Candidate, DeviceReport, Report

LONG_PROMPT = 4096
UNKNOWN = "not given"
UNPRICED = "no price"
UNKNOWNS = (NOT_MEASURED, UNKNOWN, UNPRICED)


@dataclass(frozen=True)
class Standing:
    """One row, every figure as it is written.

    Attributes:
        name: what it is.
        where: the device and runtime, or the kind of alternative.
        parameters: of the model.
        size: MB.
        score: top-1 agreement with the float model, or the score that the alternative's owner gave.
        first_token: ms at a prompt of 4,096 tokens.
        speed: tokens per second.
        energy: joules per generated token.
        cost: per 10^6 generated tokens.
        source: where the figures are from.
        ours: it was built and measured here.
        ships: it is what ships.
    """

    name: str
    where: str
    parameters: str
    size: str
    score: str
    first_token: str
    speed: str
    energy: str
    cost: str
    source: str
    ours: bool = False
    ships: bool = False


HEADS = (
    "Model",
    "Parameters",
    "MB",
    "Top-1 or score",
    "TTFT at 4K, ms",
    "tok/s",
    "J/token",
    "Cost per 10\N{SUPERSCRIPT SIX} tokens",
)


def standings(report: Report) -> tuple[Standing, ...]:
    """Every package that was built, then the alternatives in their owner's order."""
    ours = [
        _ours(report, device, candidate)
        for device in report.devices
        for runtime in device.runtimes
        for candidate in runtime.candidates
    ]
    return (*ours, *(_other(report, one) for one in report.alternatives))


def cells(row: Standing) -> tuple[str, ...]:
    """The row in the order of `HEADS`; where it runs stands with the name."""
    return (row.name, row.parameters, row.size, row.score, row.first_token, row.speed, row.energy, row.cost)


def notes(report: Report) -> tuple[str, ...]:
    """What a reader must know of the table, one sentence each."""
    found = [
        "Top-1 is the agreement with the float model."
        f" Speed is at a prompt of {key_length(report)} tokens, one request at a time."
    ]
    if not any(one.first_token != NOT_MEASURED for one in standings(report) if one.ours):
        found.append(
            f"Time to first token at {LONG_PROMPT} tokens: {NOT_MEASURED}, unless the target's prompt_lengths names it."
        )
    if report.cost is None:
        found.append(
            "Cost: the target has no [cost] table, so no price is assumed. "
            "Add one, or give a file with `tapeout report BUNDLE --alternatives FILE`."
        )
    else:
        cost = report.cost
        found.append(
            f"Cost: a device of {cost.device_price:g} {cost.currency} over {cost.life_years:g} years, generating"
            f" {100 * cost.duty:g} % of the time, at {cost.watts:g} W and"
            f" {cost.electricity_per_kwh:g} {cost.currency} per kWh. Generated tokens only."
        )
    if not report.alternatives:
        found.append(
            "No alternative was given; figures of others are for the target's owner to fill in, with source and date."
        )
    return (*found, *(f"{one.name}: {one.note}" for one in report.alternatives if one.note))


def _ours(report: Report, device: DeviceReport, candidate: Candidate) -> Standing:
    first, speed = time_to_first_token(candidate, LONG_PROMPT), decode_speed(candidate, key_length(report))
    deployed = candidate.measurement.fidelity.get("deployed") or candidate.measurement.fidelity.get("weights")
    parameters, soak = report.model.get("parameters"), candidate.measurement.soak
    return Standing(
        name=f"{report.model.get('name', 'model')}, {candidate.scheme}",
        where=f"{words.device_name(device)}, {words.runtime_name(candidate.backend)}",
        parameters=_parameters(parameters if isinstance(parameters, int) else None, NOT_MEASURED),
        size=figure(candidate.package_bytes / 1e6),
        score=NOT_MEASURED if deployed is None else f"{percent(deployed.top1)} %",
        first_token=NOT_MEASURED if first is None else figure(first.value),
        speed=NOT_MEASURED if speed is None else figure(speed.value),
        energy=NOT_MEASURED if soak is None else figure(soak.joules_per_token),
        cost=_cost(report, None if speed is None else speed.value),
        source="this report",
        ours=True,
        ships=candidate.ships,
    )


def _other(report: Report, one: Alternative) -> Standing:
    currency = f" {report.cost.currency}" if report.cost else ""
    cost = one.cost_per_million_tokens
    return Standing(
        name=one.name,
        where=one.kind,
        parameters=_parameters(one.parameters, UNKNOWN),
        size=_given(one.size_mb),
        score=one.score or UNKNOWN,
        first_token=_given(one.first_token_ms),
        speed=_given(one.tokens_per_second),
        energy=_given(one.joules_per_token),
        cost=UNKNOWN if cost is None else f"{figure(cost)}{currency}",
        source=f"{one.source}, {one.date}",
    )


def _cost(report: Report, tokens_per_second: float | None) -> str:
    if report.cost is None:
        return UNPRICED
    if not tokens_per_second:
        return NOT_MEASURED
    return f"{figure(report.cost.per_million_tokens(tokens_per_second))} {report.cost.currency}"


def _given(value: float | None) -> str:
    return UNKNOWN if value is None else figure(value)


def _parameters(value: int | None, missing: str) -> str:
    if value is None:
        return missing
    return f"{figure(value / 1e9)} B" if value >= 1e9 else f"{figure(value / 1e6)} M" if value >= 1e6 else count(value)
