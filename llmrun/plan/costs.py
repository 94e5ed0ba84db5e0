"""Time, energy and money of a run: pure functions; None where something they need is unknown, never 0."""

from dataclasses import dataclass

from llmrun.plan.hardware import Accelerator

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Prices:
    """What the site pays.  PUE: power usage effectiveness.  yuan_per_GPU_hour: None where unknown."""

    PUE: float
    yuan_per_kWh: float
    yuan_per_GPU_hour: float | None


@dataclass(frozen=True)
class Costs:
    """What a run takes.

    time_hours:   FLOPs / (D · peak · MFU), longer by the share that ranks wait for the busiest one.
    GPU_hours:    D · time_hours.
    energy_kWh:   TDP · D · time_hours · PUE.
    yuan_energy:  energy_kWh · yuan_per_kWh.       yuan_GPU: GPU_hours · yuan_per_GPU_hour.
    unknown:      for each None among them, why.
    """

    time_hours: float | None
    GPU_hours: float | None
    energy_kWh: float | None
    yuan_energy: float | None
    yuan_GPU: float | None
    unknown: dict[str, str]


def time_hours(FLOPs: int, D: int, peak_FLOPs: float, mfu: float, idle_share: float = 0.0) -> float:
    """Hours that D devices need for `FLOPs` at a share `mfu` of their peak.

    idle_share: share of the ranks' time spent waiting for the busiest rank, 0 where D divides V.
    """
    return FLOPs / (D * peak_FLOPs * mfu * (1.0 - idle_share)) / SECONDS_PER_HOUR


def energy_kWh(TDP_W: float, GPU_hours: float, PUE: float) -> float:
    """Energy of the site: every device at its TDP, times PUE."""
    return TDP_W * GPU_hours * PUE / 1000.0


def costs_of(
    FLOPs: int,
    D: int,
    *,
    idle_share: float,
    accelerator: Accelerator | None,
    precision: str,
    mfu: float,
    prices: Prices,
) -> Costs:
    """All costs that can be known."""
    unknown: dict[str, str] = {}
    peak = accelerator.peak_FLOPs(precision) if accelerator else None
    if peak is None:
        reason = _why_no_peak(accelerator, precision)
        names = ("time_hours", "GPU_hours", "energy_kWh", "yuan_energy", "yuan_GPU")
        return Costs(None, None, None, None, None, dict.fromkeys(names, reason))
    assert accelerator is not None
    hours = time_hours(FLOPs, D, peak, mfu, idle_share)
    GPU_hours = D * hours
    energy = yuan_energy = yuan_GPU = None
    if accelerator.TDP_W is None:
        reason = f"the hardware table has no TDP of {accelerator.name}"
        unknown |= {"energy_kWh": reason, "yuan_energy": reason}
    else:
        energy = energy_kWh(accelerator.TDP_W, GPU_hours, prices.PUE)
        yuan_energy = energy * prices.yuan_per_kWh
    if prices.yuan_per_GPU_hour is None:
        unknown["yuan_GPU"] = "hardware.yuan_per_GPU_hour is not set"
    else:
        yuan_GPU = GPU_hours * prices.yuan_per_GPU_hour
    return Costs(hours, GPU_hours, energy, yuan_energy, yuan_GPU, unknown)


def _why_no_peak(accelerator: Accelerator | None, precision: str) -> str:
    """Why no time can be told."""
    if accelerator is None:
        return "hardware.accelerator is not set"
    return f"the hardware table has no {precision} peak of {accelerator.name}"
