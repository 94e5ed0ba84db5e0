"""The noise band of the smoothed losses of a group of runs, and the rule for a run that leaves it."""

import json
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, Self

import numpy as np

from llmrun.errors import InputError
from llmrun.storage.durable import replace_text
from llmrun.storage.metrics import names
from llmrun.storage.metrics.jsonl import number, spell
from llmrun.storage.metrics.student import as_normal, t_quantile

BASELINE_FORMAT = "llmrun-baseline/1"
RUNS_MIN = 2


@dataclass(frozen=True)
class Band:
    """The band of n runs.

    mean, sd: [steps], float64, nats; entry k is that of step k + 1, NaN if a run lacks the step.
    n:        runs behind it, at least 2.
    """

    mean: np.ndarray
    sd: np.ndarray
    n: int

    @property
    def steps(self) -> int:
        """The last step that the band covers."""
        return len(self.mean)

    @property
    def spread(self) -> np.ndarray:
        """[steps], float64, nats: the standard deviation of one more run about the baseline's mean."""
        return self.sd * math.sqrt(1.0 + 1.0 / self.n)

    def half_width(self, alpha: float) -> np.ndarray:
        """[steps], float64, nats: half the width of the band that one more run leaves with probability alpha."""
        return t_quantile(alpha / 2.0, self.n - 1) * self.spread

    def z(self, step: int, loss: float) -> float | None:
        """The distance of `loss` from the mean as a standard normal deviate; None beyond the band's steps.

        The t value of the prediction converted to the z of the same tail probability, so that it does not depend on n.
        """
        if not 1 <= step <= self.steps:
            return None
        mean, spread = float(self.mean[step - 1]), float(self.spread[step - 1])
        if math.isnan(mean) or math.isnan(loss):
            return None
        if spread == 0.0:
            return 0.0 if loss == mean else math.copysign(38.0, loss - mean)
        return as_normal((loss - mean) / spread, self.n - 1)


def band_of(curves: Sequence[np.ndarray]) -> Band:
    """The band of n >= 2 curves, each [steps] float64, over the steps that all of them have."""
    assert len(curves) >= RUNS_MIN
    steps = min(len(curve) for curve in curves)
    stacked = np.stack([curve[:steps] for curve in curves])
    return Band(stacked.mean(axis=0), stacked.std(axis=0, ddof=1), len(curves))


@dataclass(frozen=True)
class Baseline:
    """baseline.json of a run: the band that its loss is compared with, and the origin of the band.

    asked: `monitor.baseline` when the band was made.  runs: identities of the runs in the band.
    """

    asked: tuple[str, ...]
    runs: tuple[str, ...]
    band: Band

    def write(self, path: Path) -> None:
        """Write the file durably; the runs of the baseline are not needed afterwards."""
        document = {
            "format": BASELINE_FORMAT,
            "asked": list(self.asked),
            "runs": list(self.runs),
            "n": self.band.n,
            "mean": _short(self.band.mean),
            "sd": _short(self.band.sd),
        }
        replace_text(path, json.dumps(document, allow_nan=False, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote.  Raises InputError if the file cannot be read or is damaged."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            found = document["format"]
            if found != BASELINE_FORMAT:
                raise InputError(f"{path}: unsupported baseline format {found} (expected {BASELINE_FORMAT})")
            return cls(tuple(document["asked"]), tuple(document["runs"]), _band_of_json(document))
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is damaged: {error}", hints=["remove the file; the next start creates it again"]
            ) from error


def _band_of_json(document: Mapping[str, Any]) -> Band:
    """The band in a baseline.json.  Raises ValueError, KeyError, TypeError."""
    band = Band(_array(document["mean"]), _array(document["sd"]), int(document["n"]))
    if band.mean.shape != band.sd.shape or band.n < RUNS_MIN:
        raise ValueError(f"mean and sd must have one length, and n must be at least {RUNS_MIN}")
    return band


def _short(values: np.ndarray) -> list[Any]:
    """Numbers for JSON with 9 digits, far more precise than the noise."""
    return [spell(float(f"{value:.9g}")) for value in values]


def _array(values: Sequence[Any]) -> np.ndarray:
    """[n], float64.  Raises ValueError if an entry is not a number."""
    found = [number(value) for value in values]
    if any(value is None for value in found):
        raise ValueError("mean and sd must hold numbers only")
    return np.array(found, dtype=np.float64)


ALPHA = 0.05
"""At each step, one more run leaves the displayed band with this probability."""
Z_OUT = 3.0
"""A step is outside if its |z| is larger: 27 of 10,000 steps by chance."""
OUT_OF = 20
"""The last steps that the rule considers."""
OUT_MIN = 15
"""With this many of them outside on one side, the run has left the band."""


class BaselineWatch:
    """Compares each step with the band; warns each time the smoothed loss leaves it.

    The loss has left if at least OUT_MIN of the last OUT_OF steps are beyond Z_OUT on one side, and is back if none is.
    False alarm rates were measured: docs/verify-statistical.md.
    """

    def __init__(self, band: Band) -> None:
        self._band = band
        self._half_width = band.half_width(ALPHA)
        self._sides: deque[int] = deque(maxlen=OUT_OF)
        self._is_out = False

    def step(self, step: int, loss_smooth: float) -> tuple[dict[str, Any], str | None]:
        """(fields for the row in metrics.jsonl, warning if the loss leaves the band at this step or None).

        loss_smooth: nats.  Returns ({}, None) beyond the baseline's last step.
        """
        z = self._band.z(step, loss_smooth)
        if z is None:
            return {}, None
        mean, half = float(self._band.mean[step - 1]), float(self._half_width[step - 1])
        fields = {names.BASELINE_LOW: mean - half, names.BASELINE_HIGH: mean + half, names.BASELINE_Z: z}
        self._sides.append((z > Z_OUT) - (z < -Z_OUT))
        left = self._left()
        if not left:
            return fields, None
        where = "above" if left > 0 else "below"
        return fields, (
            f"step {step:,}: the smoothed loss {loss_smooth:.4f} has left the baseline's band, "
            f"{where} its mean {mean:.4f} by z = {z:+.1f}; one more run of {self._band.n} is expected "
            f"within {mean - half:.4f} … {mean + half:.4f} ({1 - ALPHA:.0%})"
        )

    def _left(self) -> int:
        """The side on which the run leaves the band at this step: 1 above, -1 below, 0 if it does not."""
        if self._is_out:
            self._is_out = any(self._sides)
            return 0
        for side in (1, -1):
            if self._sides.count(side) >= OUT_MIN:
                self._is_out = True
                return side
        return 0


def first_left(band: Band, loss_smooth: np.ndarray) -> int | None:
    """The step at which BaselineWatch would first warn for a whole curve; None if it would not.

    loss_smooth: [steps], float64, nats, from step 1 on; steps beyond the band are ignored.
    """
    steps = min(band.steps, len(loss_smooth))
    t_out = t_quantile(NormalDist().cdf(-Z_OUT), band.n - 1)
    away = loss_smooth[:steps] - band.mean[:steps]
    reach = t_out * band.spread[:steps]
    known = np.flatnonzero(~np.isnan(away))
    found = []
    for out in (away[known] > reach[known], away[known] < -reach[known]):
        count = np.concatenate([[0], np.cumsum(out)])
        lately = count[1:] - count[np.maximum(np.arange(len(known)) - OUT_OF + 1, 0)]
        found += list(known[np.flatnonzero(lately >= OUT_MIN)[:1]])
    return int(min(found)) + 1 if found else None
