"""Tests on two samples: equivalence within a margin, difference, effect size, Holm's correction."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from llmrun.storage.metrics.student import t_above, t_quantile


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values, in the order given: those at most alpha may be acted on together.

    The chance that any true hypothesis is among them is at most alpha, however they depend on each other
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


_NODES = 400
_FAR = 12.0
"""Standard errors of s that are gone through: beyond them nothing is left in float64."""


@lru_cache(maxsize=256)
def sd_nodes(df: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes s [400] and weights [400], float64, with Σ weights·f(s) ≈ E f(s) for s = √(χ²_df / df).

    Gauss-Legendre on the density 2·(df/2)^(df/2)/Γ(df/2) · s^(df-1) · exp(-df·s²/2).
    """
    width = _FAR / math.sqrt(2.0 * df)
    low, high = max(0.0, 1.0 - width), 1.0 + width
    points, weights = _legendre()
    s = (high - low) / 2.0 * points + (high + low) / 2.0
    log_density = (
        math.log(2.0)
        + df / 2.0 * math.log(df / 2.0)
        - math.lgamma(df / 2.0)
        + (df - 1.0) * np.log(s)
        - df / 2.0 * s * s
    )
    weights = weights * (high - low) / 2.0 * np.exp(log_density)
    return s, weights / weights.sum()


@cache
def _legendre() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [-1, 1]."""
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    return points, weights


def normal_below(x: np.ndarray) -> np.ndarray:
    """The standard normal distribution function, elementwise, float64."""
    return np.array([0.5 * math.erfc(-value / math.sqrt(2.0)) for value in x])


def noncentral_t_below(t: float, df: float, shift: float) -> float:
    """P(T <= t) of the noncentral t distribution: E Φ(t·s - shift) (Johnson and Welch 1940, equation 1)."""
    s, weights = sd_nodes(df)
    return float(weights @ normal_below(t * s - shift))


SEEDS_MAX = 10_000


def power(n: int, margin: float, sd: float, alpha: float, difference: float = 0.0) -> float:
    """The chance that TOST at `alpha` shows two groups of n runs equivalent.

    sd: from run to run, in both groups.  difference: the true one.  Exact for normal samples of equal variance
    (Phillips 1990, J. Pharmacokinet. Biopharm. 18, 137-144): given the pooled s the means are equivalent where
    their difference is below margin - t·s·√(2/n), which is normal.
    """
    assert n >= 2
    error, df = sd * math.sqrt(2.0 / n), 2 * n - 2
    if error == 0.0:
        return float(abs(difference) < margin)
    s, weights = sd_nodes(df)
    room = margin / error - t_quantile(alpha, df) * s
    inside = normal_below(room - difference / error) - normal_below(-room - difference / error)
    return float(weights @ np.where(room > 0.0, inside, 0.0))


def seeds_needed(
    margin: float, sd: float, alpha: float, wanted: float, difference: float = 0.0
) -> int | None:
    """The smallest n for each group with `power` of at least `wanted`; None where not even SEEDS_MAX are enough."""
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


_PRECISION = 1e-9


@dataclass(frozen=True)
class Effect:
    """Hedges' g of candidate less baseline, and its interval; None where there is no scatter to measure by."""

    g: float | None
    low: float | None
    high: float | None


def hedges_g(baseline: Sample, candidate: Sample, alpha: float) -> Effect:
    """Hedges' g = J·(difference of means)/(pooled standard deviation), with an interval of confidence 1 - alpha.

    J removes the bias of small samples (Hedges 1981, J. Educ. Statist. 6, 107-128, equation 6e).  The interval holds
    exactly for normal samples of equal variance: the shifts under which the t value found is the alpha/2 or
    1 - alpha/2 quantile of the noncentral t distribution (Steiger and Fouladi 1997).
    """
    df = baseline.n + candidate.n - 2
    pooled = math.sqrt(((baseline.n - 1) * baseline.sd**2 + (candidate.n - 1) * candidate.sd**2) / df)
    if pooled == 0.0:
        return Effect(None, None, None)
    d = (candidate.mean - baseline.mean) / pooled
    root = math.sqrt(baseline.n * candidate.n / (baseline.n + candidate.n))
    t = d * root
    J = correction(df)

    def shift_where(below: float) -> float:
        return _solve(lambda shift: noncentral_t_below(t, df, shift) - below, t)

    return Effect(J * d, J * shift_where(1.0 - alpha / 2.0) / root, J * shift_where(alpha / 2.0) / root)


def correction(df: float) -> float:
    """J(df) = Γ(df/2) / (√(df/2)·Γ((df-1)/2)), near 1 - 3/(4·df - 1); 0 at df = 1 (Hedges 1981)."""
    if df <= 1:
        return 0.0
    return math.exp(math.lgamma(df / 2.0) - math.lgamma((df - 1.0) / 2.0)) / math.sqrt(df / 2.0)


def _solve(falling: Callable[[float], float], near: float) -> float:
    """The root of a function that falls, by bisection outwards from `near`."""
    width = 1.0
    while falling(near - width) < 0.0 or falling(near + width) > 0.0:
        width *= 2.0
    low, high = near - width, near + width
    while high - low > _PRECISION * max(1.0, abs(low), abs(high)):
        middle = (low + high) / 2.0
        low, high = (middle, high) if falling(middle) > 0.0 else (low, middle)
    return (low + high) / 2.0
