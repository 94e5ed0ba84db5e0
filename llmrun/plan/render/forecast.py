"""The planner's record and a calibration in words."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from llmrun.plan.costs import SECONDS_PER_HOUR
from llmrun.plan.forecast import FORECASTS_LEAST, ForecastRecord, Quantity
from llmrun.plan.render.amounts import show_hours, show_kWh, show_real
from llmrun.plan.render.language import Translate
from llmrun.text import format_bytes

if TYPE_CHECKING:
    from llmrun.plan.forecast import TimeEstimate

NAMED: tuple[tuple[Quantity, str], ...] = (
    (
        "step_s",
        "my last {n} forecasts of the time of a step on this machine: median error {median}, worst {worst}",
    ),
    (
        "time_s",
        "my last {n} forecasts of the time of a run on this machine: median error {median}, worst {worst}",
    ),
    (
        "peak_memory_bytes",
        "my last {n} forecasts of memory on this machine: median error {median}, worst {worst}",
    ),
    (
        "checkpoint_bytes",
        "my last {n} forecasts of checkpoints on this machine: median error {median}, worst {worst}",
    ),
    ("energy_J", "my last {n} forecasts of energy on this machine: median error {median}, worst {worst}"),
)


def record_lines(
    records: Mapping[Quantity, ForecastRecord],
    hours: float | None,
    memory_bytes: int,
    runs_dir: str,
    translate: Translate,
) -> list[str]:
    """What past forecasts came to, and the planned time and memory as intervals from them.

    records: by quantity, those that there are.  hours: planned; None where unknown.  memory_bytes: planned, of a rank.
    """
    if not records:
        return [
            translate("no run below {runs_dir} has judged a forecast on this machine yet", runs_dir=runs_dir)
        ]
    lines = [
        translate(
            template,
            n=len(found.errors),
            median=f"{found.median_error:.1%}",
            worst=f"{found.worst_error:.1%}",
        )
        for quantity, template in NAMED
        if (found := records.get(quantity)) is not None
    ]
    lines += memory_lines(records.get("peak_memory_bytes"), memory_bytes, translate)
    return lines + time_lines(records.get("time_s"), hours, translate)


def memory_lines(record: ForecastRecord | None, planned_bytes: int, translate: Translate) -> list[str]:
    """The memory of a rank as an interval."""
    interval = None if record is None else record.interval(planned_bytes)
    if interval is None:
        return []
    low, high = (format_bytes(round(bound)) for bound in interval)
    return [translate("by that record the memory of a rank is {low} to {high}", low=low, high=high)]


def time_lines(record: ForecastRecord | None, hours: float | None, translate: Translate) -> list[str]:
    """The time as an interval: past runs took it with evaluation and saving."""
    if hours is None:
        return []
    if record is None:
        return [translate("no forecast of time that was made like this one has been judged yet: no interval")]
    interval = record.interval(hours)
    if interval is None:
        return [translate("fewer than {n} forecasts give no interval", n=FORECASTS_LEAST)]
    low, high = interval
    return [
        translate(
            "by that record the time is {low} to {high}",
            low=show_hours(low, translate),
            high=show_hours(high, translate),
        )
    ]


def calibration_lines(found: "TimeEstimate", D: int, translate: Translate) -> list[str]:
    """What was timed here, and what it does not hold.  D: ranks of the run."""
    lines = [
        translate(
            "{n} steps timed on D = {D} {where}: {step} a step (± {spread}), {rate} tokens/s",
            n=found.steps_timed,
            D=found.D_timed,
            where=found.where,
            step=show_hours(found.step_s / SECONDS_PER_HOUR, translate),
            spread=f"{found.spread:.1%}",
            rate=show_real(found.tokens_per_second),
        ),
    ]
    if found.D_timed < D:
        lines.append(
            translate(
                "the exchange among D = {D} ranks is not in it either: {timed} did the same work each",
                D=D,
                timed=found.D_timed,
            )
        )
    if found.energy_kWh is None:
        lines.append(translate("nothing here counts energy"))
    else:
        lines.append(
            translate(
                "energy of the devices, as they counted it: {energy}", energy=show_kWh(found.energy_kWh)
            )
        )
    return lines
