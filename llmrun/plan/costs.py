"""Time, energy, CO2 and money of a run: pure functions.  An unknown figure is None, never 0."""

from dataclasses import dataclass
from typing import NamedTuple

from llmrun.plan.hardware import Accelerator
from llmrun.plan.note import Note

SECONDS_PER_HOUR = 3600

COSTS = ("time_hours", "GPU_hours", "energy_kWh", "tCO2", "yuan_energy", "yuan_GPU")


class Prices(NamedTuple):
    """Prices, power and emissions of the site.

    PUE:               power usage effectiveness.
    yuan_per_GPU_hour: None if unknown.
    watts_per_device:  measured mean power; None: use the TDP.
    """

    PUE: float
    yuan_per_kWh: float
    yuan_per_GPU_hour: float | None
    kgCO2_per_kWh: float = 0.0
    watts_per_device: float | None = None


@dataclass(frozen=True)
class Costs:
    """Time and money of a run without interruptions; None if unknown.

    time_hours:   FLOPs / (D · peak · MFU · (1 - idle share)), and Muon's on its busiest owner; or tokens / measured
                  throughput.
    GPU_hours:    D · time_hours.
    watts:        power of one device, measured or its TDP.
    energy_kWh:   watts · D · time_hours · PUE.
    tCO2:         energy_kWh · kgCO2_per_kWh, in tonnes.
    yuan_energy:  energy_kWh · yuan_per_kWh.       yuan_GPU: GPU_hours · yuan_per_GPU_hour.
    unknown:      the reason for each None of `COSTS`.
    """

    time_hours: float | None
    GPU_hours: float | None
    watts: float | None
    energy_kWh: float | None
    tCO2: float | None
    yuan_energy: float | None
    yuan_GPU: float | None
    unknown: dict[str, Note]


def time_hours(FLOPs: float, D: int, peak_FLOPs: float, mfu: float, idle_share: float = 0.0) -> float:
    """Hours that D devices need for `FLOPs` at a share `mfu` of their peak.

    idle_share: share of the ranks' time spent waiting for the busiest rank, 0 where D divides V.
    """
    return FLOPs / (D * peak_FLOPs * mfu * (1.0 - idle_share)) / SECONDS_PER_HOUR


def hours_at(tokens: int, tokens_per_second: float) -> float:
    """Hours for `tokens` at a measured throughput of all devices together."""
    return tokens / tokens_per_second / SECONDS_PER_HOUR


def energy_kWh(watts: float, GPU_hours: float, PUE: float) -> float:
    """Energy of the site: every device at its power, times PUE."""
    return watts * GPU_hours * PUE / 1000.0


def tonnes_CO2(kWh: float, kgCO2_per_kWh: float) -> float:
    """Emissions at a stated intensity, gross: without certificates and offsets (Patterson et al. 2021, arXiv 2104.10350)."""
    return kWh * kgCO2_per_kWh / 1000.0


def price(hours: float, per_hour: float) -> float:
    """Rent, in the currency of `per_hour`."""
    return hours * per_hour


def costs_of(
    FLOPs: int | None,
    D: int,
    *,
    idle_share: float,
    accelerator: Accelerator | None,
    precision: str,
    mfu: float,
    prices: Prices,
    measured_hours: float | None = None,
    muon_FLOPs: int = 0,
) -> Costs:
    """All costs that are known.

    FLOPs:          of the whole run; None if unknown.
    idle_share:     share of time that ranks wait for the busiest one, 0 … 1.
    mfu:            assumed share of the peak, 0 … 1.
    measured_hours: of the whole run, from a measured throughput; None: use `mfu`.
    muon_FLOPs:     of the orthogonalisations of the busiest owner in the whole run; they run in bf16.
    """
    peak = accelerator.peak_FLOPs(precision) if accelerator else None
    if measured_hours is not None:
        hours = measured_hours
    elif FLOPs is None:
        return Costs(None, None, None, None, None, None, None, dict.fromkeys(COSTS, Note("unknown_FLOPs")))
    elif peak is None:
        reason = _why_no_peak(accelerator, precision)
        return Costs(None, None, None, None, None, None, None, dict.fromkeys(COSTS, reason))
    else:
        hours = time_hours(FLOPs, D, peak, mfu, idle_share)
        assert accelerator is not None
        hours += time_hours(muon_FLOPs, 1, accelerator.peak_FLOPs("bf16") or peak, mfu)
    return _costs_of_hours(hours, D, accelerator, prices)


def _costs_of_hours(hours: float, D: int, accelerator: Accelerator | None, prices: Prices) -> Costs:
    """All costs of a run of `hours` on D devices."""
    unknown: dict[str, Note] = {}
    GPU_hours = D * hours
    energy = emitted = yuan_energy = yuan_GPU = None
    watts = prices.watts_per_device or (accelerator.TDP_W if accelerator else None)
    if watts is None:
        unknown |= dict.fromkeys(("energy_kWh", "tCO2", "yuan_energy"), _why_no_power(accelerator))
    else:
        energy = energy_kWh(watts, GPU_hours, prices.PUE)
        emitted = tonnes_CO2(energy, prices.kgCO2_per_kWh)
        yuan_energy = price(energy, prices.yuan_per_kWh)
    if prices.yuan_per_GPU_hour is None:
        unknown["yuan_GPU"] = Note("not_set", {"key": "hardware.yuan_per_GPU_hour"})
    else:
        yuan_GPU = price(GPU_hours, prices.yuan_per_GPU_hour)
    return Costs(hours, GPU_hours, watts, energy, emitted, yuan_energy, yuan_GPU, unknown)


def _why_no_peak(accelerator: Accelerator | None, precision: str) -> Note:
    if accelerator is None:
        return Note("not_set", {"key": "hardware.accelerator"})
    return Note("no_peak", {"precision": precision, "name": accelerator.name})


def _why_no_power(accelerator: Accelerator | None) -> Note:
    if accelerator is None:
        return Note("not_set", {"key": "hardware.watts_per_device"})
    return Note("no_TDP", {"name": accelerator.name})
