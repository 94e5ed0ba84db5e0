"""How far two tensors of one dtype and shape lie apart, from their bytes."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrun.storage.ulps import ulps_max

INTEGERS = {"float64": np.int64, "float32": np.int32, "bfloat16": np.int16, "float16": np.int16}
"""The integer type that carries a float's bits: neighbours among floats are neighbours among these."""


@dataclass(frozen=True)
class Gap:
    """The distance of two tensors.

    n_elements:   in each.  n_differing: those with other bits.  first_index: of the first of these, flattened.
    ulps_max:     floats one would have to step over, at most; None for dtypes that are no floats.
    absolute_max: the largest |a - b|.  a, b: the values at `first_index`.
    """

    n_elements: int
    n_differing: int
    first_index: int
    ulps_max: int | None
    absolute_max: float
    a: float
    b: float

    def as_json(self) -> dict[str, Any]:
        """All of it as one JSON object; what is not finite is a string."""
        found = asdict(self)
        return {key: value if np.isfinite(value or 0) else str(value) for key, value in found.items()}


def gap_between(dtype: str, a: bytes, b: bytes) -> Gap | None:
    """The distance of two tensors of `dtype` (as torch names it); None where their bytes are equal.

    a, b: equally many bytes, little-endian.
    """
    assert len(a) == len(b)
    if a == b:
        return None
    carrier = INTEGERS.get(dtype)
    bits_a, bits_b = (np.frombuffer(raw, carrier or _plain(dtype)) for raw in (a, b))
    unequal = bits_a != bits_b
    values_a, values_b = (_values(dtype, bits) for bits in (bits_a, bits_b))
    first = int(unequal.argmax())
    with np.errstate(invalid="ignore", over="ignore"):
        absolute = float(np.abs(values_a[unequal] - values_b[unequal]).max())
    return Gap(
        n_elements=len(bits_a),
        n_differing=int(unequal.sum()),
        first_index=first,
        ulps_max=None if carrier is None else ulps_max(bits_a[unequal], bits_b[unequal]),
        absolute_max=absolute,
        a=float(values_a[first]),
        b=float(values_b[first]),
    )


def _plain(dtype: str) -> np.dtype[Any]:
    """The type that numpy has for an integer or boolean tensor."""
    return np.dtype(dtype)


def _values(dtype: str, bits: NDArray[Any]) -> NDArray[np.float64]:
    """The numbers behind the bits: [n], float64."""
    if dtype == "bfloat16":
        return (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if dtype in INTEGERS:
        return bits.view(np.dtype(dtype)).astype(np.float64)
    return bits.astype(np.float64)
