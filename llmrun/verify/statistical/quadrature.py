"""Averages over the sampling distribution of a standard deviation, and what follows from them.

s/σ of a sample with `df` degrees of freedom is distributed as √(χ²_df / df).  Given s, what remains is normal, so
the power of a t test and the noncentral t distribution are averages of normal probabilities over s.
"""

import math
from functools import cache, lru_cache

import numpy as np

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
