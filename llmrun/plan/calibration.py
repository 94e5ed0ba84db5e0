"""From a few timed steps to the time of a run: pure functions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from llmrun.config.batch import Batch
from llmrun.lanes import cost_of

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
