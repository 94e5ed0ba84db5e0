"""float32 values as 32-bit integers, to travel exactly."""

import numpy as np


def bits_of(value: float) -> int:
    """The float32 bits of a float32 value."""
    return int(np.float32(value).view(np.uint32))


def float_of(bits: int) -> float:
    """The float32 value of 32 bits."""
    return float(np.uint32(bits).view(np.float32))
