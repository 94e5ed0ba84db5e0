"""Tests on two samples: equivalence within a margin, difference, effect size, Holm's correction."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import chdtr, chdtrc
from scipy.stats import t as student_t


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values, in the order given: all hypotheses with a value of at most alpha may be rejected.

    The probability that any true hypothesis is among them is at most alpha, however they depend on each other
    (Holm 1979, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6, 65-70).
    """
    n = len(p_values)
    adjusted = [0.0] * n
    largest = 0.0
    for rank, place in enumerate(sorted(range(n), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (n - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


@dataclass(frozen=True)
class Sample:
    """The mean and the standard deviation (with n - 1) of n >= 2 numbers."""

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


def pooled_sd(*samples: Sample) -> float:
    """The standard deviation within samples of equal variance."""
    df = sum(sample.n - 1 for sample in samples)
    return math.sqrt(sum((sample.n - 1) * sample.sd**2 for sample in samples) / df)


@dataclass(frozen=True)
class MeansCompared:
    """The difference of two means, candidate minus baseline, in the unit of the samples.

    error:         its standard error.  df: degrees of freedom after Welch and Satterthwaite.
    p_equivalence: of the hypothesis that the true difference is at least the margin (TOST).
    p_difference:  of the hypothesis that there is no difference (two-sided).
    low, high:     interval of confidence 1 - 2·alpha; it lies within the margin exactly if TOST at alpha shows
                   equivalence (before any correction for several comparisons).
    """

    difference: float
    error: float
    df: float
    p_equivalence: float
    p_difference: float
    low: float
    high: float


def compare_means(baseline: Sample, candidate: Sample, margin: float, alpha: float) -> MeansCompared:
    """TOST (Schuirmann 1987) and the t test, both in Welch's form.  margin > 0, in the unit of the samples."""
    assert margin > 0
    difference = candidate.mean - baseline.mean
    error = math.sqrt(baseline.variance_of_mean + candidate.variance_of_mean)
    df = welch_df(baseline, candidate)
    if error == 0.0:  # no variance at all: the means are known
        certain = float(abs(difference) >= margin), float(difference == 0.0)
        return MeansCompared(difference, 0.0, df, *certain, difference, difference)
    half = float(student_t.isf(alpha, df)) * error
    return MeansCompared(
        difference=difference,
        error=error,
        df=df,
        p_equivalence=float(student_t.sf((margin - abs(difference)) / error, df)),
        p_difference=min(1.0, 2.0 * float(student_t.sf(abs(difference) / error, df))),
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


_FAR = 9.0
"""Less than 1e-18 of a standard normal variable lies beyond."""

_SD = (0.0, 0.3, 0.7, 1.0, 1.4, 2.0, 4.0)
"""Ratios of a sample's standard deviation to the true one, between which an integrand changes smoothly."""


def normal_mean(function: Callable[[float], float], breaks: Sequence[float]) -> float:
    """The mean of `function` over a standard normal variable.  breaks: where the function changes quickly."""

    def weighted(z: float) -> float:
        return math.exp(-z * z / 2.0) * function(z)

    points = sorted({z for z in breaks if -_FAR < z < _FAR})
    total = quad(weighted, -_FAR, _FAR, points=points or None, epsabs=1e-11, epsrel=1e-10, limit=200)[0]
    return float(total) / math.sqrt(2.0 * math.pi)


SEEDS_MAX = 10_000


def power(n: int, margin: float, sd: float, alpha: float, difference: float = 0.0) -> float:
    """The probability that TOST at `alpha` shows two groups of n runs equivalent.

    sd: from run to run, in both groups.  difference: the true one.  Exact for normal samples of equal variance
    (Phillips 1990, J. Pharmacokinet. Biopharm. 18, 137-144): given the difference of means, which is normal, the
    groups are shown equivalent if the pooled s is below (margin - |difference|) / (t·√(2/n)), and df·s²/sd² has the
    chi-square distribution.
    """
    assert n >= 2
    error, df = sd * math.sqrt(2.0 / n), 2 * n - 2
    if error == 0.0:
        return float(abs(difference) < margin)
    t, shift = float(student_t.isf(alpha, df)), difference / error

    def shown_given(z: float) -> float:
        room = max(margin / error - abs(z + shift), 0.0)
        return float(chdtr(df, df * (room / t) ** 2))

    rooms = [margin / error - t * s for s in _SD if t * s < margin / error]
    return normal_mean(shown_given, [-shift, *(sign * room - shift for room in rooms for sign in (-1, 1))])


def noncentral_t_below(t: float, df: float, shift: float) -> float:
    """P(T <= t) of the noncentral t distribution, also for values far beyond those of `scipy.stats.nct`.

    T = (Z + shift) / √(χ²/df): given Z, a probability of the chi-square distribution.
    """
    if t < 0.0:
        return 1.0 - noncentral_t_below(-t, df, -shift)

    def below_given(z: float) -> float:
        over = max(z + shift, 0.0)
        return float(chdtrc(df, df * (over / t) ** 2)) if t else float(over == 0.0)

    return normal_mean(below_given, [t * s - shift for s in _SD])


def seeds_needed(
    margin: float, sd: float, alpha: float, wanted: float, difference: float = 0.0
) -> int | None:
    """The smallest n for each group with a `power` of at least `wanted`; None if it is above SEEDS_MAX."""
    if abs(difference) >= margin:
        return None
    low, high = 1, 2
    while power(high, margin, sd, alpha, difference) < wanted:
        low, high = high, high * 2
        if high > SEEDS_MAX:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        if power(middle, margin, sd, alpha, difference) >= wanted:
            high = middle
        else:
            low = middle
    return high


@dataclass(frozen=True)
class Effect:
    """Hedges' g of candidate minus baseline, and its interval; None if neither group has any variance."""

    g: float | None
    low: float | None
    high: float | None


def hedges_g(baseline: Sample, candidate: Sample, alpha: float) -> Effect:
    """Hedges' g = J·(difference of means)/(pooled standard deviation), with an interval of confidence 1 - alpha.

    J removes the bias of small samples (Hedges 1981, J. Educ. Statist. 6, 107-128, equation 6e).  The interval is
    exact for normal samples of equal variance: the noncentralities for which the observed t value is the alpha/2 or
    1 - alpha/2 quantile of the noncentral t distribution (Steiger and Fouladi 1997).
    """
    df = baseline.n + candidate.n - 2
    pooled = pooled_sd(baseline, candidate)
    if pooled == 0.0:
        return Effect(None, None, None)
    d = (candidate.mean - baseline.mean) / pooled
    root = math.sqrt(baseline.n * candidate.n / (baseline.n + candidate.n))
    J = correction(df)
    low, high = (noncentrality(d * root, df, below) for below in (1.0 - alpha / 2.0, alpha / 2.0))
    return Effect(J * d, J * low / root, J * high / root)


def noncentrality(t: float, df: float, below: float) -> float:
    """The noncentrality for which P(T <= t) of the noncentral t distribution is `below`."""

    def excess(shift: float) -> float:
        return noncentral_t_below(t, df, shift) - below

    width = 1.0
    while excess(t - width) < 0.0 or excess(t + width) > 0.0:
        width *= 2.0
    return float(brentq(excess, t - width, t + width, xtol=1e-9))


def correction(df: float) -> float:
    """J(df) = Γ(df/2) / (√(df/2)·Γ((df-1)/2)), near 1 - 3/(4·df - 1); 0 at df = 1 (Hedges 1981)."""
    if df <= 1:
        return 0.0
    return math.exp(math.lgamma(df / 2.0) - math.lgamma((df - 1.0) / 2.0)) / math.sqrt(df / 2.0)
