"""Student's t distribution for the noise band, so that a worker needs no scipy.

Sources: NIST Digital Library of Mathematical Functions (DLMF) 8.17 for the incomplete beta function; Student 1908.
"""

import math
from functools import lru_cache
from statistics import NormalDist

_TINY = 1e-300
_PRECISION = 1e-15
_TERMS_MAX = 10_000


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), 0 <= x <= 1, a, b > 0.

    By its continued fraction, DLMF 8.17.22, on the side where that converges fast (8.17.4 turns it around).
    """
    assert 0.0 <= x <= 1.0
    if x in (0.0, 1.0):
        return x
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - incomplete_beta(1.0 - x, b, a)
    log_front = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(log_front) / a / _continued_fraction(x, a, b)


def _continued_fraction(x: float, a: float, b: float) -> float:
    """1 + d_1/(1 + d_2/(1 + …)) of DLMF 8.17.22, by the modified Lentz algorithm (DLMF 3.10(iii))."""
    value, c, d = 1.0, 1.0, 0.0
    for n in range(1, _TERMS_MAX):
        m = n // 2
        if n % 2:
            step = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            step = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1.0 / ((1.0 + step * d) or _TINY)
        c = (1.0 + step / c) or _TINY
        value *= c * d
        if abs(c * d - 1.0) < _PRECISION:
            break
    return value


def t_above(t: float, df: float) -> float:
    """P(T > t) of Student's t with `df` > 0 degrees of freedom, whole or not; exact far into the tail."""
    assert df > 0
    if math.isinf(t):
        return 0.0 if t > 0 else 1.0
    tail = 0.5 * incomplete_beta(df / (df + t * t), df / 2.0, 0.5)
    return tail if t >= 0 else 1.0 - tail


@lru_cache(maxsize=4096)
def t_quantile(above: float, df: float) -> float:
    """The t with P(T > t) = `above`, 0 < above < 1; by bisection to the last bits."""
    assert 0.0 < above < 1.0
    if above > 0.5:
        return -t_quantile(1.0 - above, df)
    low, high = 0.0, 1.0
    while t_above(high, df) > above:
        low, high = high, high * 2.0
    while True:
        middle = (low + high) / 2.0
        if middle in (low, high):
            return middle
        low, high = (middle, high) if t_above(middle, df) > above else (low, middle)


def as_normal(t: float, df: float) -> float:
    """The z that is as far out in the standard normal distribution as `t` is in Student's.

    So one threshold means the same false-alarm rate whatever the number of runs behind `t`.  At most 38 in size.
    """
    tail = t_above(abs(t), df)
    z = -NormalDist().inv_cdf(tail) if tail > 1e-300 else 38.0
    return math.copysign(z, t)
