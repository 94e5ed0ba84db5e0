"""A noise band: where the smoothed loss of one more run of the same kind is expected, step by step.

At each step the n >= 2 losses of the baseline have a mean m and a standard deviation s (of a sample, n - 1).
One more run from the same normal distribution lies within m ± t·s·√(1 + 1/n) with probability 1 - alpha, t being
the 1 - alpha/2 quantile of Student's t with n - 1 degrees of freedom (prediction interval; Hahn and Meeker 1991,
Statistical Intervals, section 4.7).  The band holds pointwise, for each step by itself.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from llmrun.durable import replace_text
from llmrun.errors import InputError
from llmrun.metrics.jsonl import number, spell
from llmrun.metrics.student import as_normal, t_quantile

BASELINE_FORMAT = "llmrun-baseline/1"
RUNS_MIN = 2


@dataclass(frozen=True)
class Band:
    """The band of n runs.

    mean, sd: [steps], float64, nats; entry k is that of step k + 1, NaN where a run lacks the step.
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
        """How far `loss` lies from the mean, as a standard normal deviate; None beyond the band's steps.

        The t value of the prediction, turned into the z of the same tail: |z| > 2 means the same for every n.
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
    """baseline.json of a run: the band that it is watched against, and where that came from.

    asked: `monitor.baseline` as it was when the band was made.  runs: identities of the runs behind it.
    """

    asked: tuple[str, ...]
    runs: tuple[str, ...]
    band: Band

    def write(self, path: Path) -> None:
        """Write the file durably: nothing of the baseline's runs is needed afterwards."""
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
        """What `write` wrote.  Raises InputError where the file cannot be read or is damaged."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            found = document["format"]
            if found != BASELINE_FORMAT:
                raise InputError(f"{path} is no baseline: its format is {found}, this is {BASELINE_FORMAT}")
            return cls(tuple(document["asked"]), tuple(document["runs"]), _band_of_json(document))
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is damaged: {error}", hints=["remove the file: the next start makes it anew"]
            ) from error


def _band_of_json(document: Mapping[str, Any]) -> Band:
    """The band in a baseline.json.  Raises ValueError, KeyError, TypeError where it is damaged."""
    band = Band(_array(document["mean"]), _array(document["sd"]), int(document["n"]))
    if band.mean.shape != band.sd.shape or band.n < RUNS_MIN:
        raise ValueError("mean, sd and n do not belong together")
    return band


def _short(values: np.ndarray) -> list[Any]:
    """Numbers for JSON, with 9 digits: far below the noise, a third of the bytes."""
    return [spell(float(f"{value:.9g}")) for value in values]


def _array(values: Sequence[Any]) -> np.ndarray:
    """[n], float64.  Raises ValueError where an entry is no number."""
    found = [number(value) for value in values]
    if any(value is None for value in found):
        raise ValueError("an entry of mean or sd is no number")
    return np.array(found, dtype=np.float64)
