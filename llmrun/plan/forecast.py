"""Forecasts of time and memory, from timed steps and from earlier runs, and the errors of earlier forecasts."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal, NamedTuple

from llmrun.config.resolve import Resolved
from llmrun.core.batch import Batch
from llmrun.core.lanes import cost_of
from llmrun.core.model.flops import flops_per_token

Quantity = Literal[
    "step_s", "time_s", "tokens_per_second", "peak_memory_bytes", "checkpoint_bytes", "energy_J"
]
QUANTITIES: tuple[Quantity, ...] = (
    "step_s",
    "time_s",
    "tokens_per_second",
    "peak_memory_bytes",
    "checkpoint_bytes",
    "energy_J",
)
GROW_WITH_STEPS = ("time_s", "energy_J")
TIMES = ("step_s", "time_s")
"""Their errors depend on the basis of the forecast and are kept apart by it."""
Basis = Literal["same_work", "similar_work", "assumed_mfu"]
"""What a forecast of time is based on: earlier runs of the same work on this machine; the FLOP/s of earlier runs with
the same device, precision, D and threads; the config's assumed MFU."""
FROM_MEASUREMENT: tuple[Basis, ...] = ("same_work", "similar_work")
FORECASTS_SHOWN = 12
FORECASTS_LEAST = 3
"""Fewest errors that give an interval."""
RUNS_AVERAGED = 5
SIMILAR = ("precision", "D", "threads_per_rank")

Figures = Mapping[str, float | None]


@dataclass(frozen=True)
class Forecast:
    """What was planned and what was measured for one segment of a run.

    made:     UTC.        machine: device (cpu or cuda), its model, the host.
    work:     of `work_of`.
    basis:    of the time; None if there is no forecast of time.
    planned:  QUANTITIES and `steps` of the planned segment; None: unknown.
    measured: the same for the steps that were done; None before the segment's end, and if its launcher was killed.
    """

    run: str
    segment: int
    made: str
    machine: Mapping[str, Any]
    work: Mapping[str, Any]
    basis: Basis | None
    planned: Figures
    measured: Figures | None

    def planned_for_done(self, quantity: Quantity) -> float | None:
        """The planned figure, scaled to the steps that were done."""
        planned = self.planned[quantity]
        if planned is None or self.measured is None or quantity not in GROW_WITH_STEPS:
            return planned
        meant, done = self.planned["steps"], self.measured["steps"]
        return planned * done / meant if meant and done else None

    def error(self, quantity: Quantity) -> float | None:
        """Planned / measured - 1, or None if either is unknown."""
        planned = self.planned_for_done(quantity)
        measured = None if self.measured is None else self.measured[quantity]
        return None if planned is None or not measured else planned / measured - 1.0


class ForecastRecord(NamedTuple):
    """Errors of one quantity, oldest first: planned / measured - 1."""

    errors: tuple[float, ...]

    @property
    def median_error(self) -> float:
        """The median of the absolute errors."""
        return median(abs(error) for error in self.errors)

    @property
    def worst_error(self) -> float:
        """The largest absolute error."""
        return max(abs(error) for error in self.errors)

    def interval(self, planned: float) -> tuple[float, float] | None:
        """The measured range to expect if this forecast is as wrong as those of the record; None if too few."""
        if len(self.errors) < FORECASTS_LEAST:
            return None
        return planned / (1.0 + max(self.errors)), planned / (1.0 + min(self.errors))


def record_of(
    forecasts: Iterable[Forecast],
    machine: Mapping[str, Any],
    quantity: Quantity,
    bases: Collection[Basis] | None = None,
) -> ForecastRecord | None:
    """The last FORECASTS_SHOWN errors of a quantity on such a machine, or None if there are none.

    bases: count only forecasts with one of these bases; None: count all.
    """
    own = [
        f for f in forecasts if is_same_machine(f.machine, machine) and (bases is None or f.basis in bases)
    ]
    errors = [error for f in sorted(own, key=lambda f: f.made) if (error := f.error(quantity)) is not None]
    return ForecastRecord(tuple(errors[-FORECASTS_SHOWN:])) if errors else None


def is_same_machine(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether both have the same model of device; hosts of a cluster share their record."""
    return all(a[key] == b[key] for key in ("device", "model"))


def work_of(resolved: Resolved) -> dict[str, Any]:
    """Everything that the time of a step depends on apart from the machine, and the FLOPs of a step."""
    config, batch, shape = resolved.config, resolved.batch, resolved.shape
    return {
        "shape": config.model.model_dump(mode="json") if shape is None else asdict(shape),
        "gb_tok": batch.gb_tok,
        "mu_tok": batch.mu_tok,
        "V": batch.V,
        "D": batch.D,
        "precision": config.precision,
        "strategy": config.strategy,
        "activation_checkpointing": config.activation_checkpointing,
        "compile": config.compile,
        "mode": config.reproducibility.mode,
        "threads_per_rank": config.hardware.threads_per_rank,
        "optimizer": config.optimizer.implementation,
        "FLOPs": None if shape is None else batch.gb_tok * flops_per_token(shape),
    }


def step_from_record(
    forecasts: Iterable[Forecast], machine: Mapping[str, Any], work: Mapping[str, Any]
) -> tuple[float, Basis] | None:
    """(seconds per step, basis) from earlier runs on such a machine, or None if there is no similar one."""
    own = sorted((f for f in forecasts if is_same_machine(f.machine, machine)), key=lambda f: f.made)
    same = _measured_steps(f for f in own if f.work == work)
    if same:
        return median(same[-RUNS_AVERAGED:]), "same_work"
    if work["FLOPs"] is None:
        return None
    alike = [f for f in own if f.work["FLOPs"] and all(f.work[key] == work[key] for key in SIMILAR)]
    rates = [
        f.work["FLOPs"] / f.measured["step_s"]
        for f in alike
        if f.measured is not None and f.measured["step_s"]
    ]
    return (work["FLOPs"] / median(rates[-RUNS_AVERAGED:]), "similar_work") if rates else None


def _measured_steps(forecasts: Iterable[Forecast]) -> Sequence[float]:
    measured = [f.measured["step_s"] for f in forecasts if f.measured is not None]
    return [step_s for step_s in measured if step_s]


SECONDS_PER_HOUR = 3600
JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Timed:
    """Timed steps.

    step_s:        seconds of each step, without warm-up.
    D:             ranks that shared a step.
    micro_batches: of the busiest rank in one step.
    energy_J:      of all devices during these steps; None without an energy counter.
    where:         the name of the device.
    FLOPs_per_token: forward and backward, as torch counts them; None if they were not counted.
    peak_memory_bytes: of one rank, without the host's copy of a checkpoint; None if unknown.
    """

    step_s: tuple[float, ...]
    D: int
    micro_batches: int
    energy_J: float | None
    where: str
    FLOPs_per_token: float | None = None
    peak_memory_bytes: int | None = None


@dataclass(frozen=True)
class TimeEstimate:
    """Time and energy of a run whose steps take as long as the timed ones.

    step_s:            median seconds per step.      spread: of `spread_of`.
    tokens_per_second: of all ranks.
    time_hours, GPU_hours: of the whole run, without evaluation and saving.
    energy_kWh:        of the devices, without PUE; None if it was not measured.
    mfu:               0 … 1; None if the peak is unknown.
    steps_timed, D_timed, where: of the timed steps.
    FLOPs_per_token, peak_memory_bytes: as counted and measured in a model of the user's own; None if not.
    """

    step_s: float
    spread: float
    tokens_per_second: float
    tokens_per_second_per_gpu: float
    time_hours: float
    GPU_hours: float
    energy_kWh: float | None
    mfu: float | None
    steps_timed: int
    D_timed: int
    where: str
    FLOPs_per_token: int | None = None
    peak_memory_bytes: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The fields, for `--json`."""
        return asdict(self)


@dataclass(frozen=True)
class BenchmarkBatch:
    """A batch to time on one machine: the busiest rank has as many micro-batches as in the run."""

    gb_tok: int
    V: int
    D: int


def benchmark_batch(batch: Batch, devices: int) -> BenchmarkBatch:
    """The batch itself if there are at least D devices, else the same work per rank on fewer ranks."""
    assert devices >= 1
    if devices >= batch.D:
        return BenchmarkBatch(batch.gb_tok, batch.V, batch.D)
    lanes = max(cost_of(batch.V, batch.D).lanes_per_rank)
    micro_batches = lanes * batch.micro_batches_per_lane
    return BenchmarkBatch(devices * micro_batches * batch.mu_tok, devices * lanes, devices)


def estimate(
    timed: Timed, batch: Batch, FLOPs_per_token: int | None, peak_FLOPs: float | None
) -> TimeEstimate:
    """The time of a run of `batch` on batch.D such devices.

    A step is assumed to take as long as a timed one; exchange among more ranks is not included.
    peak_FLOPs: of one device, FLOP/s; None if unknown.
    """
    step_s = median(timed.step_s)
    rate = batch.gb_tok / step_s
    hours = batch.steps * step_s / SECONDS_PER_HOUR
    energy = None
    if timed.energy_J is not None:
        per_rank_s = timed.energy_J / timed.D / sum(timed.step_s)
        energy = per_rank_s * batch.D * step_s * batch.steps / JOULES_PER_KWH
    return TimeEstimate(
        step_s=step_s,
        spread=spread_of(timed.step_s),
        tokens_per_second=rate,
        tokens_per_second_per_gpu=rate / batch.D,
        time_hours=hours,
        GPU_hours=batch.D * hours,
        energy_kWh=energy,
        mfu=None
        if peak_FLOPs is None or FLOPs_per_token is None
        else rate * FLOPs_per_token / (batch.D * peak_FLOPs),
        steps_timed=len(timed.step_s),
        D_timed=timed.D,
        where=timed.where,
        FLOPs_per_token=None if timed.FLOPs_per_token is None else round(timed.FLOPs_per_token),
        peak_memory_bytes=timed.peak_memory_bytes if timed.D == batch.D else None,
    )


def spread_of(values: Sequence[float]) -> float:
    """Half the interquartile range over the median; 0 for a single value."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return (ordered[-1 - quarter] - ordered[quarter]) / 2 / median(ordered)
