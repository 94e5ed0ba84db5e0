"""Checkpoint intervals and the cost of interruptions (Young, Daly, goodput): pure functions of seconds.

delta: seconds that one save costs.  M: mean seconds between interruptions of the whole run.
R:     seconds from an interruption until training continues.
"""

from math import exp, expm1, sqrt
from typing import NamedTuple

from llmrun.plan.checkpoint_size import CheckpointSize

SECONDS_PER_HOUR = 3600
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Multiples of the best interval in the table."""


def run_MTBF_s(device_MTBF_hours: float, D: int) -> float:
    """M: D devices fail D times as often as one, independently and at a constant rate."""
    return device_MTBF_hours * SECONDS_PER_HOUR / D


def device_MTBF_of(interruptions: int, devices: int, days: float) -> float:
    """Hours between interruptions of one device, from the figures of a run."""
    return devices * days * 24 / interruptions


def young_interval_s(delta: float, M: float) -> float:
    """sqrt(2·delta·M) (Young 1974, Communications of the ACM 17(9), 530-531)."""
    return sqrt(2 * delta * M)


def daly_interval_s(delta: float, M: float) -> float:
    """Young's interval to a higher order (Daly 2006, Future Generation Computer Systems 22(3), equation 37).

    sqrt(2·delta·M)·(1 + sqrt(delta/(2M))/3 + (delta/(2M))/9) - delta for delta < 2M, else M.
    """
    if delta >= 2 * M:
        return M
    ratio = delta / (2 * M)
    return sqrt(2 * delta * M) * (1 + sqrt(ratio) / 3 + ratio / 9) - delta


def goodput(interval: float, delta: float, M: float, R: float) -> float:
    """Share of wall time spent on training that is not lost, 0 … 1.

    interval / (M·e^(R/M)·(e^((interval + delta)/M) - 1)) (Daly 2006, equation 20: the solve time over the
    expected wall time, with interruptions also during saves and restarts).
    """
    exponent = (interval + delta + R) / M
    # e^709 is the largest double; such a run never reaches its next save.
    return interval / (M * exp(R / M) * expm1((interval + delta) / M)) if exponent < 700 else 0.0


class Interval(NamedTuple):
    """An interval between saves and its goodput."""

    interval_s: float
    goodput: float


class Saving(NamedTuple):
    """When to save and what it costs.

    delta_s:       seconds to write one checkpoint at the stated bandwidth: an upper bound of what a save costs, since
                   llmrun writes in the background and training waits only for a copy.
    MTBF_s:        mean time between interruptions of the whole run.
    restart_s:     from an interruption until training continues, as stated.
    young, daly:   the two recommended intervals.
    configured:    that of `checkpoint.every_steps` and `every_minutes`; None if neither is given, or if
                   `every_steps` is given and the time of a step is unknown.
    wall_hours:    expected time with saves and interruptions, at the configured interval or else Daly's;
                   None if the time is unknown or the run would never end.
    interruptions: expected in that time.
    rows:          goodput at intervals around Daly's.
    """

    delta_s: float
    MTBF_s: float
    restart_s: float
    young: Interval
    daly: Interval
    configured: Interval | None
    wall_hours: float | None
    interruptions: float | None
    rows: tuple[Interval, ...]


def saving_of(
    size: CheckpointSize,
    D: int,
    *,
    GBps: float,
    device_MTBF_hours: float,
    restart_minutes: float,
    configured_s: float | None,
    run_hours: float | None,
) -> Saving:
    """Intervals, goodput and expected interruptions of a run."""
    delta, M, R = write_seconds(size.total, GBps), run_MTBF_s(device_MTBF_hours, D), restart_minutes * 60

    def at(interval: float) -> Interval:
        return Interval(interval, goodput(interval, delta, M, R))

    best = daly_interval_s(delta, M)
    daly, configured = at(best), None if configured_s is None else at(configured_s)
    # Interruptions lengthen the run, and a longer run has more of them.
    share = (configured or daly).goodput
    wall_hours = None if run_hours is None or share == 0 else run_hours / share
    return Saving(
        delta_s=delta,
        MTBF_s=M,
        restart_s=R,
        young=at(young_interval_s(delta, M)),
        daly=daly,
        configured=configured,
        wall_hours=wall_hours,
        interruptions=None if wall_hours is None else wall_hours * SECONDS_PER_HOUR / M,
        rows=tuple(at(factor * best) for factor in FACTORS),
    )


def write_seconds(checkpoint_bytes: int, GBps: float) -> float:
    """Seconds to write a checkpoint at GBps · 10^9 bytes/s of all ranks together."""
    return checkpoint_bytes / (GBps * 1e9)


def bytes_per_day(checkpoint_bytes: int, interval_s: float) -> float:
    """Bytes written in a day."""
    return checkpoint_bytes * 24 * SECONDS_PER_HOUR / interval_s


def configured_interval_s(
    every_steps: int | None, every_minutes: int | None, step_seconds: float | None
) -> float | None:
    """Seconds between saves as configured, the earlier of both; None if unknown."""
    by_minutes = None if every_minutes is None else every_minutes * 60.0
    if every_steps is None:
        return by_minutes
    if step_seconds is None:
        return None
    by_steps = every_steps * step_seconds
    return by_steps if by_minutes is None else min(by_steps, by_minutes)
