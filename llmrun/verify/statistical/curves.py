"""Compares the loss curves of two groups of runs, from the first step to the last common one."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmrun.storage.metrics.loss_band import Band, band_of, first_left
from llmrun.verify.statistical.groups import Group
from llmrun.verify.statistical.hypothesis_tests import Sample, compare_means, holm

LOOKS = 20
"""Steps at which the groups are compared."""


@dataclass(frozen=True)
class Look:
    """The difference of the mean smoothed losses at one step, in nats; p_difference after Holm over all looks."""

    step: int
    difference: float
    p_difference: float


@dataclass(frozen=True)
class CurveComparison:
    """The comparison of the smoothed losses on the way.

    band:    the prediction band of the baseline.
    outside: by candidate run, the fraction of its steps outside the band; alpha is expected.
    left_at: by candidate run, the step at which `monitor.baseline` would have warned; None if it would not.
    looks:   the difference at evenly spaced steps, including the last.
    """

    band: Band
    outside: dict[str, float]
    left_at: dict[str, int | None]
    looks: list[Look]
    alpha: float

    @property
    def first_different(self) -> int | None:
        """The step of the first look at which the groups are shown to differ."""
        return next((look.step for look in self.looks if look.p_difference <= self.alpha), None)

    def as_json(self) -> dict[str, Any]:
        """The comparison with stable keys."""
        return {
            "band": {
                "confidence": 1.0 - self.alpha,
                "runs": self.band.n,
                "steps": self.band.steps,
                "expected_outside": self.alpha,
            },
            "candidates": [
                {"run": name, "outside": share, "left_band_at": self.left_at[name]}
                for name, share in self.outside.items()
            ],
            "looks": [vars(look) for look in self.looks],
            "first_different_look": self.first_different,
        }


def compare_curves(baseline: Group, candidate: Group, step: int, alpha: float) -> CurveComparison:
    """Compare the curves of two groups up to `step`, which all runs have."""
    base = np.stack([member.curve.loss_smooth[:step] for member in baseline.members])
    other = np.stack([member.curve.loss_smooth[:step] for member in candidate.members])
    band = band_of(list(base))
    half = band.half_width(alpha)
    with np.errstate(invalid="ignore"):
        out = np.abs(other - band.mean) > half
    steps = sorted({max(1, round(step * look / LOOKS)) for look in range(1, LOOKS + 1)})
    return CurveComparison(
        band=band,
        outside={name: float(row.mean()) for name, row in zip(candidate.names, out, strict=True)},
        left_at={name: first_left(band, row) for name, row in zip(candidate.names, other, strict=True)},
        looks=_looks(base, other, steps),
        alpha=alpha,
    )


def _looks(base: np.ndarray, other: np.ndarray, steps: list[int]) -> list[Look]:
    """Welch's test at each of the steps, corrected over all; steps without a finite loss in all runs are left out.

    base, other: [runs, steps], float64, nats.
    """
    whole = [s for s in steps if np.isfinite(base[:, s - 1]).all() and np.isfinite(other[:, s - 1]).all()]
    compared = [
        compare_means(Sample.of(base[:, s - 1].tolist()), Sample.of(other[:, s - 1].tolist()), 1.0, 0.05)
        for s in whole
    ]
    adjusted = holm([means.p_difference for means in compared])
    return [Look(s, means.difference, p) for s, means, p in zip(whole, compared, adjusted, strict=True)]
