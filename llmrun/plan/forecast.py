"""Forecasts of time and memory: from timed steps, and from earlier forecasts beside what was measured."""

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
"""Judged by the basis of the forecast: one from measurements says nothing of one from an assumed MFU."""
Basis = Literal["same_work", "similar_work", "assumed_mfu"]
"""Where a forecast of time came from: earlier runs of the same work here; the FLOP/s of earlier runs here with the
same device, precision and D; the config's MFU."""
FROM_MEASUREMENT: tuple[Basis, ...] = ("same_work", "similar_work")
FORECASTS_SHOWN = 12
FORECASTS_LEAST = 3
"""Fewer give no interval."""
RUNS_AVERAGED = 5
SIMILAR = ("precision", "D", "threads_per_rank")

Figures = Mapping[str, float | None]


@dataclass(frozen=True)
class Forecast:
    """What was planned for one segment of a run, and what came of it.

    made:     UTC.        machine: device (cpu or cuda), its model, the host.
    work:     all that the time of a step depends on beside the machine.
    basis:    of the time; None where it could not be told.
    planned:  QUANTITIES, and `steps` of the segment as it was meant; None is unknown.
    measured: the same for the steps that were done; None until the segment's end, and for ever where its
              launcher was killed.
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
        """The plan for as many steps as were done."""
        planned = self.planned[quantity]
        if planned is None or self.measured is None or quantity not in GROW_WITH_STEPS:
            return planned
        meant, done = self.planned["steps"], self.measured["steps"]
        return planned * done / meant if meant and done else None

    def error(self, quantity: Quantity) -> float | None:
        """Planned over measured, less 1; None where either is unknown."""
        planned = self.planned_for_done(quantity)
        measured = None if self.measured is None else self.measured[quantity]
        return None if planned is None or not measured else planned / measured - 1.0


class ForecastRecord(NamedTuple):
    """Errors of one quantity, oldest first: planned over measured, less 1."""

    errors: tuple[float, ...]

    @property
    def median_error(self) -> float:
        """The median of their sizes."""
        from statistics import median

        return median(abs(error) for error in self.errors)

    @property
    def worst_error(self) -> float:
        """The largest size."""
        return max(abs(error) for error in self.errors)

    def interval(self, planned: float) -> tuple[float, float] | None:
        """From least to most if this forecast is as wrong as one of the record; None where there are too few."""
        if len(self.errors) < FORECASTS_LEAST:
            return None
        return planned / (1.0 + max(self.errors)), planned / (1.0 + min(self.errors))


def record_of(
    forecasts: Iterable[Forecast],
    machine: Mapping[str, Any],
    quantity: Quantity,
    bases: Collection[Basis] | None = None,
) -> ForecastRecord | None:
    """The last forecasts of a quantity on such a machine; None where there is none.

    bases: count only forecasts of time that came from there; None counts all.
    """
    own = [
        f for f in forecasts if is_same_machine(f.machine, machine) and (bases is None or f.basis in bases)
    ]
    errors = [error for f in sorted(own, key=lambda f: f.made) if (error := f.error(quantity)) is not None]
    return ForecastRecord(tuple(errors[-FORECASTS_SHOWN:])) if errors else None


def is_same_machine(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether the same model of device does the work: hosts of a cluster share their record."""
    return all(a[key] == b[key] for key in ("device", "model"))


def work_of(resolved: Resolved) -> dict[str, Any]:
    """All that the time of a step depends on beside the machine, and its FLOPs."""
    config, batch = resolved.config, resolved.batch
    return {
        "shape": asdict(resolved.shape),
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
        "FLOPs": batch.gb_tok * flops_per_token(resolved.shape),
    }


def step_from_record(
    forecasts: Iterable[Forecast], machine: Mapping[str, Any], work: Mapping[str, Any]
) -> tuple[float, Basis] | None:
    """Seconds of a step as earlier runs here measured them; None where none was alike."""
    from statistics import median

    own = sorted((f for f in forecasts if is_same_machine(f.machine, machine)), key=lambda f: f.made)
    same = _measured_steps(f for f in own if f.work == work)
    if same:
        return median(same[-RUNS_AVERAGED:]), "same_work"
    alike = [f for f in own if all(f.work[key] == work[key] for key in SIMILAR)]
    rates = [
        f.work["FLOPs"] / f.measured["step_s"]
        for f in alike
        if f.measured is not None and f.measured["step_s"]
    ]
    return (work["FLOPs"] / median(rates[-RUNS_AVERAGED:]), "similar_work") if rates else None


def _measured_steps(forecasts: Iterable[Forecast]) -> Sequence[float]:
    """Measured seconds of a step, where known."""
    measured = [f.measured["step_s"] for f in forecasts if f.measured is not None]
    return [step_s for step_s in measured if step_s]


def lines_of_forecast(forecast: Forecast) -> list[str]:
    """Planned beside measured, a line for each quantity that has both."""
    lines = []
    for quantity in QUANTITIES:
        planned, error = forecast.planned_for_done(quantity), forecast.error(quantity)
        if planned is not None and error is not None and forecast.measured is not None:
            measured = forecast.measured[quantity]
            lines.append(f"{quantity}: planned {planned:,.4g}, measured {measured:,.4g} ({error:+.1%})")
    return lines


SECONDS_PER_HOUR = 3600
JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Timed:
    """Steps that were timed.

    step_s:   seconds of each, warm-up left out.
    D:        ranks that shared a step.      micro_batches: of the busiest rank in one step.
    energy_J: of all devices during these steps; None where nothing counts it.
    where:    the device, as a phrase.
    """

    step_s: tuple[float, ...]
    D: int
    micro_batches: int
    energy_J: float | None
    where: str


@dataclass(frozen=True)
class TimeEstimate:
    """What a run takes if every step takes what the timed ones took.

    step_s:            the median.      spread: half the middle half of the timed steps over their median.
    tokens_per_second: of all ranks.
    time_hours, GPU_hours: of the whole run, evaluation and saving not included.
    energy_kWh:        of the devices, without PUE; None where it was not timed.
    mfu:               0 … 1; None where the peak is unknown.
    steps_timed, D_timed, where: what was timed.
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

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self)


@dataclass(frozen=True)
class TrialSize:
    """A batch that one machine can time: as many micro-batches for the busiest rank as in the whole run."""

    gb_tok: int
    V: int
    D: int


def trial_size(batch: Batch, devices: int) -> TrialSize:
    """The batch itself where `devices` are enough, else the same work a rank on fewer ranks."""
    assert devices >= 1
    if devices >= batch.D:
        return TrialSize(batch.gb_tok, batch.V, batch.D)
    lanes = max(cost_of(batch.V, batch.D).lanes_per_rank)
    micro_batches = lanes * batch.micro_batches_per_lane
    return TrialSize(devices * micro_batches * batch.mu_tok, devices * lanes, devices)


def estimate(timed: Timed, batch: Batch, FLOPs_per_token: int, peak_FLOPs: float | None) -> TimeEstimate:
    """The time of a run of `batch` on batch.D such devices.

    A rank's step is taken to last as long as the timed one: the exchange among more ranks is not in it.
    peak_FLOPs: of one device, FLOP/s; None where unknown.
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
        mfu=None if peak_FLOPs is None else rate * FLOPs_per_token / (batch.D * peak_FLOPs),
        steps_timed=len(timed.step_s),
        D_timed=timed.D,
        where=timed.where,
    )


def spread_of(values: Sequence[float]) -> float:
    """Half the distance between the quartiles, over the median; 0 for a single value."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return (ordered[-1 - quarter] - ordered[quarter]) / 2 / median(ordered)
