"""splitmix64 (Steele, Lea and Flood, OOPSLA 2014): the mixing function of the order and of the digest.

Two forms of one function: whole numbers, and numpy arrays of uint64.  It is specified, so that no
library version can change an order or a digest.
"""

import numpy as np
from numpy.typing import NDArray

MASK_64 = 2**64 - 1

_GAMMA = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def splitmix64(x: int) -> int:
    """splitmix64 of one integer in [0, 2^64)."""
    z = (x + _GAMMA) & MASK_64
    z = ((z ^ (z >> 30)) * _FIRST) & MASK_64
    z = ((z ^ (z >> 27)) * _SECOND) & MASK_64
    return z ^ (z >> 31)


def splitmix64_array(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64 of every element: uint64 of any shape -> a new uint64 array of that shape.

    Relies on integer arithmetic of numpy arrays wrapping at 2^64.
    """
    z = x + np.uint64(_GAMMA)
    shifted = z >> np.uint64(30)
    z ^= shifted
    z *= np.uint64(_FIRST)
    np.right_shift(z, np.uint64(27), out=shifted)
    z ^= shifted
    z *= np.uint64(_SECOND)
    np.right_shift(z, np.uint64(31), out=shifted)
    z ^= shifted
    return z
