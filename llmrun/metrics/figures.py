"""How numbers are written on the screen."""

import math
from collections.abc import Sequence
from itertools import pairwise

BARS = "▁▂▃▄▅▆▇█"


def duration(seconds: float) -> str:
    """A length of time in its two largest units: `3 min 20 s`, `2 h 05 min`, `4 d 03 h`."""
    whole = max(0, math.ceil(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600:02d} h"


def rate(value: float) -> str:
    """A number per second, with separators and three digits at least."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as at most `width` bars, oldest first, each bar the mean of its share; finite ones only."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite or width < 1:
        return ""
    n_bars = min(width, len(finite))
    edges = [bar * len(finite) // n_bars for bar in range(n_bars + 1)]
    shares = [finite[start:stop] for start, stop in pairwise(edges)]
    means = [math.fsum(share) / len(share) for share in shares]
    lowest, highest = min(means), max(means)
    span = highest - lowest or 1.0
    return "".join(BARS[round((mean - lowest) / span * (len(BARS) - 1))] for mean in means)
