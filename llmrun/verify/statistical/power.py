"""How many seeds it takes to show equivalence, before any of them is trained."""

import math

import numpy as np

from llmrun.metrics.student import t_quantile
from llmrun.verify.statistical.quadrature import normal_below, sd_nodes

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
