"""Measures the planner: forecasts a segment when it starts, and adds what was measured when it has ended."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from llmrun.config.resolve import Resolved, training_spec
from llmrun.launch.energy import EnergyMeter
from llmrun.launch.prepared_segment import PreparedSegment
from llmrun.machine import device_name, host_name
from llmrun.plan.checkpoint_size import checkpoint_bytes
from llmrun.plan.forecast import Basis, Figures, Forecast, step_from_record, work_of
from llmrun.plan.plan import Plan, make_plan
from llmrun.run.directory import RunDirectory
from llmrun.run.forecast import forecasts_below, read_forecasts, write_forecasts
from llmrun.run.record import RunRecord, Segment, now_utc
from llmrun.run.worker_spec import Outcome, read_outcomes
from llmrun.storage.checkpoint.layout import step_name, steps_in
from llmrun.storage.metrics.jsonl import number, rows
from llmrun.storage.metrics.names import STEP, STEP_SECONDS

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class ForecastRecorder:
    """Records the forecast of one segment in forecast.json.

    No method raises: a run does not need its forecast.  `at_end` returns what failed as warnings.

    earlier:  forecasts of the run's earlier segments.
    forecast: of this one; None if it could not be made.
    """

    run: RunDirectory
    earlier: Sequence[Forecast]
    forecast: Forecast | None
    meter: EnergyMeter | None
    warnings: Sequence[str]

    @classmethod
    def at_start(cls, prepared: PreparedSegment) -> "ForecastRecorder":
        """Forecast the segment and write the forecast."""
        run, hardware = prepared.run, prepared.preflight.resolved.config.hardware
        try:
            earlier = [f for f in read_forecasts(run) if f.segment < prepared.segment.segment]
            forecast = forecast_of(prepared, forecasts_below(run.path.resolve().parent))
            warnings = write_or_warn(run, [*earlier, forecast])
            meter = EnergyMeter(hardware.device, prepared.segment.D)
        except Exception as error:  # noqa: BLE001  whatever it is, training goes on without a forecast
            return cls(run, (), None, None, [f"cannot forecast segment {prepared.segment.segment}: {error}"])
        return cls(run, earlier, forecast, meter, warnings)

    def at_end(self, record: RunRecord) -> list[str]:
        """Write what was measured of the record's last segment, which has ended; returns warnings."""
        if self.forecast is None:
            return list(self.warnings)
        try:
            energy_J = None if self.meter is None else self.meter.joules()
            measured = {**measure(self.run, record.segments[-1], self.forecast), "energy_J": energy_J}
            complete = replace(self.forecast, measured=measured)
            return [*self.warnings, *write_or_warn(self.run, [*self.earlier, complete])]
        except Exception as error:  # noqa: BLE001  the record of how the segment ended must still be written
            number = record.segments[-1].segment
            return [*self.warnings, f"cannot compare segment {number} with its forecast: {error}"]


def write_or_warn(run: RunDirectory, forecasts: Sequence[Forecast]) -> list[str]:
    """Write a run's forecasts; returns a warning if the disk refuses."""
    try:
        write_forecasts(run.forecast_file, forecasts)
    except OSError as error:
        return [f"cannot write {run.forecast_file.name}: {error.strerror}"]
    return []


def measure(run: RunDirectory, segment: Segment, forecast: Forecast) -> Figures:
    """What was measured of a segment that has ended, except its energy."""
    assert segment.to_step is not None
    outcomes = read_outcomes(run, segment.segment, segment.D)
    return {
        **times_of(run, segment.from_step, segment.to_step, forecast.work["gb_tok"]),
        "time_s": loop_seconds(outcomes),
        "peak_memory_bytes": peak_of(outcomes, segment.D),
        "checkpoint_bytes": newest_checkpoint_bytes(run, segment.from_step),
    }


def machine_of(resolved: Resolved) -> dict[str, Any]:
    """The machine and device, as in forecast.json."""
    device = resolved.config.hardware.device
    return {"device": device, "model": device_name(device), "host": host_name()}


def forecast_of(prepared: PreparedSegment, history: Sequence[Forecast]) -> Forecast:
    """The forecast of a segment.  history: forecasts of earlier runs."""
    resolved, segment = prepared.preflight.resolved, prepared.segment
    machine, work = machine_of(resolved), work_of(resolved)
    plan = make_plan(resolved)
    steps = prepared.worker_spec.until_step - segment.from_step
    step_s, basis = step_time(plan, step_from_record(history, machine, work))
    watts = plan.costs.watts
    time_s = None if step_s is None else step_s * steps
    planned: Figures = {
        "steps": steps,
        "step_s": step_s,
        "time_s": time_s,
        "tokens_per_second": None if step_s is None else resolved.batch.gb_tok / step_s,
        "peak_memory_bytes": plan.memory.device_bytes,
        "checkpoint_bytes": checkpoint_bytes(
            resolved.model.parameters,
            training_spec(resolved).groups,
            resolved.batch.D,
            resolved.config.strategy,
        ),
        "energy_J": None if time_s is None or watts is None else watts * resolved.batch.D * time_s,
    }
    return Forecast(prepared.run.name, segment.segment, now_utc(), machine, work, basis, planned, None)


def step_time(plan: Plan, recorded: tuple[float, Basis] | None) -> tuple[float | None, Basis | None]:
    """Seconds per step: as recorded if known, else from the assumed MFU."""
    if recorded is not None:
        return recorded
    if plan.costs.time_hours is None:
        return None, None
    return plan.costs.time_hours * SECONDS_PER_HOUR / plan.batch.steps, "assumed_mfu"


def times_of(run: RunDirectory, from_step: int, to_step: int, gb_tok: int) -> Figures:
    """Times of a segment's steps from metrics.jsonl; the first step is not typical and is left out."""
    seconds = [
        number(row.get(STEP_SECONDS)) for row in rows(run.metrics_file) if from_step < row[STEP] <= to_step
    ]
    known = [value for value in seconds if value is not None]
    step_s = median(known[1:]) if len(known) > 1 else None
    return {
        "steps": len(known),
        "step_s": step_s,
        "tokens_per_second": gb_tok / step_s if step_s else None,
    }


def loop_seconds(outcomes: Sequence[Outcome]) -> float | None:
    """Seconds of rank 0's loop, with evaluation and saving; None if it did not end by itself."""
    return next((outcome.loop_s for outcome in outcomes if outcome.rank == 0), None)


def peak_of(outcomes: Sequence[Outcome], D: int) -> int | None:
    """The largest peak of all ranks; None unless all of them reported one."""
    peaks = [outcome.peak_memory_bytes for outcome in outcomes]
    known = [peak for peak in peaks if peak is not None]
    return max(known) if len(known) == D else None


def newest_checkpoint_bytes(run: RunDirectory, from_step: int) -> int | None:
    """Bytes of the newest checkpoint that the segment wrote; None if it wrote none."""
    steps = [step for step in steps_in(run.checkpoints) if step > from_step]
    return directory_bytes(run.checkpoints / step_name(steps[-1])) if steps else None


def directory_bytes(directory: Path) -> int:
    """Bytes of the files directly in a directory."""
    return sum(path.stat().st_size for path in directory.iterdir() if path.is_file())
