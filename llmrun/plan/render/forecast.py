"""Forecasts, their errors and a calibration as text."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from llmrun.plan.costs import SECONDS_PER_HOUR
from llmrun.plan.forecast import FORECASTS_LEAST, QUANTITIES, Forecast, ForecastRecord, Quantity
from llmrun.plan.plan import MeasuredRate
from llmrun.plan.render.amounts import show_hours, show_kWh, show_real
from llmrun.plan.render.language import Translate
from llmrun.text import format_bytes

if TYPE_CHECKING:
    from llmrun.plan.forecast import TimeEstimate


def record_lines(
    records: Mapping[Quantity, ForecastRecord],
    hours: float | None,
    memory_bytes: int | None,
    runs_dir: str,
    translate: Translate,
) -> list[str]:
    """The errors of past forecasts, and the planned time and memory as intervals derived from them.

    records: by quantity, those that exist.  hours: planned; None if unknown.  memory_bytes: planned, of a rank; None if unknown.
    """
    if not records:
        return [
            translate(
                "forecasts on this machine: none in {runs_dir} has been compared with a run yet",
                runs_dir=runs_dir,
            )
        ]
    lines = [
        _errors_of(quantity, found, translate)
        for quantity in SHOWN
        if (found := records.get(quantity)) is not None
    ]
    lines += memory_lines(records.get("peak_memory_bytes"), memory_bytes, translate)
    return lines + time_lines(records.get("time_s"), hours, translate)


SHOWN: tuple[Quantity, ...] = ("step_s", "time_s", "peak_memory_bytes", "checkpoint_bytes", "energy_J")


def _errors_of(quantity: Quantity, record: ForecastRecord, translate: Translate) -> str:
    names: dict[Quantity, str] = {
        "step_s": translate("step-time forecasts on this machine"),
        "time_s": translate("run-time forecasts on this machine"),
        "peak_memory_bytes": translate("memory forecasts on this machine"),
        "checkpoint_bytes": translate("checkpoint-size forecasts on this machine"),
        "energy_J": translate("energy forecasts on this machine"),
    }
    return translate(
        "{forecasts}, last {n}: median error {median}, worst {worst}",
        forecasts=names[quantity],
        n=len(record.errors),
        median=f"{record.median_error:.1%}",
        worst=f"{record.worst_error:.1%}",
    )


def memory_lines(record: ForecastRecord | None, planned_bytes: int | None, translate: Translate) -> list[str]:
    """The memory of a rank as an interval; nothing without a record."""
    interval = None if record is None or planned_bytes is None else record.interval(planned_bytes)
    if interval is None:
        return []
    low, high = (format_bytes(round(bound)) for bound in interval)
    return [
        translate("judging by these errors the memory of a rank will be {low} to {high}", low=low, high=high)
    ]


def time_lines(record: ForecastRecord | None, hours: float | None, translate: Translate) -> list[str]:
    """The time as an interval.  It includes evaluation and saving, as past runs did."""
    if hours is None:
        return []
    if record is None:
        return [
            translate(
                "no interval for the time: no forecast made like this one has been compared with a run yet"
            )
        ]
    interval = record.interval(hours)
    if interval is None:
        return [translate("no interval for the time: it takes at least {n} forecasts", n=FORECASTS_LEAST)]
    low, high = interval
    return [
        translate(
            "judging by these errors the time will be {low} to {high}",
            low=show_hours(low, translate),
            high=show_hours(high, translate),
        )
    ]


def measured_basis(measured: MeasuredRate, translate: Translate) -> str:
    """What a measured throughput is based on."""
    if measured.basis == "timed":
        assert measured.timed is not None
        timed = measured.timed
        return translate(
            "{n} steps timed on D = {D} {where}", n=timed.steps_timed, D=timed.D_timed, where=timed.where
        )
    if measured.basis == "same_work":
        return translate("as measured in earlier runs of the same work on this machine")
    return translate("at the FLOP/s of earlier runs on this machine")


def calibration_lines(found: "TimeEstimate", D: int, translate: Translate) -> list[str]:
    """What was timed, and what is not included.  D: ranks of the run."""
    lines = [
        translate(
            "{n} steps timed on D = {D} {where}: {step} per step (± {spread}), {rate} tokens/s",
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
                "the exchange among D = {D} ranks is not included either: {timed} ranks did the same work each",
                D=D,
                timed=found.D_timed,
            )
        )
    if found.energy_kWh is None:
        lines.append(translate("energy: this machine has no energy counter"))
    else:
        lines.append(
            translate("energy by the counters of the devices: {energy}", energy=show_kWh(found.energy_kWh))
        )
    return lines


def forecast_lines(forecast: Forecast) -> list[str]:
    """Planned and measured, a line for each quantity that has both."""
    lines = []
    for quantity in QUANTITIES:
        planned, error = forecast.planned_for_done(quantity), forecast.error(quantity)
        if planned is not None and error is not None and forecast.measured is not None:
            measured = forecast.measured[quantity]
            lines.append(f"{quantity}: planned {planned:,.4g}, measured {measured:,.4g} ({error:+.1%})")
    return lines
