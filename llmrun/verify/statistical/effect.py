"""The size of a difference in units of the scatter from run to run: Hedges' g, with an exact interval."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from llmrun.verify.statistical.equivalence import Sample
from llmrun.verify.statistical.quadrature import noncentral_t_below

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
