"""Measurements for `llmrun plan`: steps timed on this machine, and forecasts of earlier runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrun.cli import console
from llmrun.run.signals import LauncherStopRequest

LINE_COLUMNS = 78

if TYPE_CHECKING:
    from llmrun.config.resolve import Resolved
    from llmrun.plan.forecast import Basis, ForecastRecord, Quantity, TimeEstimate
    from llmrun.plan.plan import MeasuredRate, Plan
    from llmrun.plan.render.language import Translate


def timed_here(resolved: "Resolved") -> "TimeEstimate":
    """Time a few steps of a config on this machine; leaves no files and no processes."""
    from llmrun.launch.benchmark import calibrate
    from llmrun.launch.torchrun import TorchrunBackend
    from llmrun.plan.forecast import estimate
    from llmrun.plan.hardware import accelerator_named

    config = resolved.config
    accelerator = (
        accelerator_named(config.hardware.accelerator, table=config.hardware.table)
        if config.hardware.accelerator
        else None
    )
    console.note("timing a few steps of this config (Ctrl-C stops it)")
    with LauncherStopRequest() as stop:
        timed = calibrate(resolved, TorchrunBackend(), stop.check)
    peak = accelerator.peak_FLOPs(config.precision) if accelerator else None
    return estimate(timed, resolved.batch, resolved.model.flops_per_token, peak)


def measured_lines(plan: "Plan", timed: "TimeEstimate | None", translate: "Translate") -> list[str]:
    """The timed steps and the errors of earlier forecasts, as lines."""
    from llmrun.plan.render.forecast import calibration_lines, record_lines
    from llmrun.plan.render.language import wrapped

    config = plan.config
    timing = [] if timed is None else ["", *calibration_lines(timed, plan.batch.D, translate)]
    records = records_for(plan)
    hours, memory_bytes = plan.costs.time_hours, plan.memory.device_bytes
    lines = [*timing, "", *record_lines(records, hours, memory_bytes, config.runs_dir, translate)]
    return [part for line in lines for part in wrapped(line, LINE_COLUMNS) or [""]]


def measured_json(plan: "Plan", timed: "TimeEstimate | None") -> dict[str, Any]:
    """The timed steps and the errors of earlier forecasts, as JSON."""
    return {
        "calibration": None if timed is None else timed.as_json(),
        "record": records_as_json(records_for(plan), plan.costs.time_hours, plan.memory.device_bytes),
    }


def records_for(plan: "Plan") -> "dict[Quantity, ForecastRecord]":
    """The errors of earlier forecasts on this machine, from the runs in the config's runs_dir."""
    from llmrun.run.forecast import forecasts_below

    forecasts = forecasts_below(Path(plan.config.runs_dir))
    if not forecasts:
        return {}
    from llmrun.machine import device_name
    from llmrun.plan.forecast import FROM_MEASUREMENT, QUANTITIES, TIMES, record_of

    device = "cuda" if plan.setting.device == "cuda" else "cpu"
    machine = {"device": device, "model": device_name(device)}
    bases: tuple[Basis, ...] = ("assumed_mfu",) if plan.measured is None else FROM_MEASUREMENT
    found = {
        quantity: record_of(forecasts, machine, quantity, bases if quantity in TIMES else None)
        for quantity in QUANTITIES
    }
    return {quantity: record for quantity, record in found.items() if record is not None}


def earlier_runs(resolved: "Resolved") -> "MeasuredRate | None":
    """The throughput of earlier runs of such work on this machine, or None if there are none."""
    from llmrun.run.forecast import forecasts_below

    config = resolved.config
    forecasts = forecasts_below(Path(config.runs_dir))
    if not forecasts:
        return None
    from llmrun.machine import device_name
    from llmrun.plan.forecast import step_from_record, work_of
    from llmrun.plan.plan import MeasuredRate

    device = config.hardware.device
    machine = {"device": device, "model": device_name(device)}
    found = step_from_record(forecasts, machine, work_of(resolved))
    if found is None:
        return None
    step_s, basis = found
    assert basis != "assumed_mfu"
    return MeasuredRate(resolved.batch.gb_tok / step_s, basis)


def records_as_json(
    records: "dict[Quantity, ForecastRecord]", hours: float | None, memory_bytes: int | None
) -> dict[str, Any]:
    """The errors by quantity, and the planned time and memory as intervals."""

    def interval(quantity: "Quantity", planned: float | None) -> list[float] | None:
        record = records.get(quantity)
        found = None if record is None or planned is None else record.interval(planned)
        return None if found is None else list(found)

    return {
        "forecasts": {
            quantity: {
                "count": len(record.errors),
                "median_error": record.median_error,
                "worst_error": record.worst_error,
            }
            for quantity, record in records.items()
        },
        "time_hours_interval": interval("time_s", hours),
        "memory_bytes_per_rank_interval": interval("peak_memory_bytes", memory_bytes),
    }
