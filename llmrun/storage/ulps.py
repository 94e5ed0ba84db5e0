"""The distance of floats in units in the last place: how many floats lie between two values."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def ulps(a: float, b: float) -> int:
    """The distance of two doubles: 0 for equal bits, 1 for neighbours; -0.0 lies directly below 0.0."""
    return ulps_max(np.array([a], dtype=np.float64), np.array([b], dtype=np.float64))


def ulps_max(a: NDArray[Any], b: NDArray[Any]) -> int:
    """The largest distance of two elements at the same place.

    a, b: not empty, of one shape and one type: floats, or integers that carry the bits of floats (bfloat16 as int16).
    """
    positions_a, positions_b = _positions(a), _positions(b)
    larger, smaller = np.maximum(positions_a, positions_b), np.minimum(positions_a, positions_b)
    return int((larger - smaller).max())


def _positions(values: NDArray[Any]) -> NDArray[np.unsignedinteger[Any]]:
    """The position of each float among all floats of its type, from the most negative one on."""
    bits = values.view(f"u{values.itemsize}")
    sign = bits.dtype.type(1 << (8 * values.itemsize - 1))
    positions: NDArray[np.unsignedinteger[Any]] = np.where(bits & sign, ~bits, bits | sign)
    return positions
