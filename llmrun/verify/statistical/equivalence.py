"""Two samples: are their means equivalent within a margin, are they different, and by how much.

Equivalence by two one-sided tests (TOST; Schuirmann 1987, J. Pharmacokinet. Biopharm. 15, 657-680) and difference by
Welch's test (Welch 1947, Biometrika 34, 28-35): neither takes the two standard deviations for equal (Lakens 2017,
Soc. Psychol. Personal. Sci. 8, 355-362, advises this form).
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from llmrun.metrics.student import t_above, t_quantile


@dataclass(frozen=True)
class Sample:
    """n >= 2 numbers, by their mean and their standard deviation (n - 1)."""

    n: int
    mean: float
    sd: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Sample":
        """The sample of these values."""
        assert len(values) >= 2
        return cls(len(values), statistics.fmean(values), statistics.stdev(values))

    @property
    def variance_of_mean(self) -> float:
        """The squared standard error of the mean."""
        return self.sd * self.sd / self.n


@dataclass(frozen=True)
class MeansCompared:
    """The difference of two means, candidate less baseline.

    error:         its standard error.  df: degrees of freedom after Welch and Satterthwaite.
    p_equivalence: of the hypothesis that the true difference is as large as the margin or larger (TOST).
    p_difference:  of the hypothesis that there is no difference (two-sided).
    low, high:     interval of confidence 1 - 2·alpha: it lies within the margin exactly where TOST at alpha says
                   equivalent (before any correction for several comparisons).
    """

    difference: float
    error: float
    df: float
    p_equivalence: float
    p_difference: float
    low: float
    high: float


def compare_means(baseline: Sample, candidate: Sample, margin: float, alpha: float) -> MeansCompared:
    """TOST and Welch's test.  margin > 0, in the unit of the samples."""
    assert margin > 0
    difference = candidate.mean - baseline.mean
    error = math.sqrt(baseline.variance_of_mean + candidate.variance_of_mean)
    df = welch_df(baseline, candidate)
    if error == 0.0:  # no scatter at all: the means are known
        certain = float(abs(difference) >= margin), float(difference == 0.0)
        return MeansCompared(difference, 0.0, df, *certain, difference, difference)
    below, above = t_above((difference + margin) / error, df), t_above((margin - difference) / error, df)
    half = t_quantile(alpha, df) * error
    return MeansCompared(
        difference=difference,
        error=error,
        df=df,
        p_equivalence=max(below, above),
        p_difference=min(1.0, 2.0 * t_above(abs(difference) / error, df)),
        low=difference - half,
        high=difference + half,
    )


def welch_df(a: Sample, b: Sample) -> float:
    """Degrees of freedom of the difference of two means (Satterthwaite 1946; Welch 1947, equation 28)."""
    total = a.variance_of_mean + b.variance_of_mean
    if total == 0.0:
        return float(a.n + b.n - 2)
    shares = a.variance_of_mean / total, b.variance_of_mean / total
    return 1.0 / (shares[0] ** 2 / (a.n - 1) + shares[1] ** 2 / (b.n - 1))
