"""Distances between two tensors of one name, dtype and shape: elementwise, in ulps, absolute and relative."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrun.storage.checkpoint.reader import Checkpoint
from llmrun.storage.ulps import ulps_max

TENSORS_MAX = 8
_BLOCK_ELEMENTS = 1 << 22

BITS_OF_FLOAT = {"float64": np.int64, "float32": np.int32, "bfloat16": np.int16, "float16": np.int16}
"""The integer type of a float's width, by torch's name of the float."""


@dataclass(frozen=True)
class TensorDistance:
    """The distance of one float32 tensor in two checkpoints of step `step`.

    elements, differing:  all elements, and those with different bits.
    absolute, relative:   the largest |a - b|, and the largest |a - b| / max(|a|, |b|).  NaN is left out.
    ulps:                 the largest distance in ulps.
    """

    tensor: str
    step: int
    elements: int
    differing: int
    absolute: float
    relative: float
    ulps: int

    def as_json(self) -> dict[str, Any]:
        """One JSON object; an infinite distance is the string `inf`."""
        return _finite_or_text(asdict(self))


def distances_of_tensors(a: Checkpoint, b: Checkpoint, names: Sequence[str]) -> tuple[TensorDistance, ...]:
    """The distances of the first 8 of `names` that both checkpoints hold as float32 of one shape."""
    both = [name for name in names if _is_comparable(a, b, name)]
    found = [_distance(a, b, name) for name in both[:TENSORS_MAX]]
    return tuple(distance for distance in found if distance.differing)


def _is_comparable(a: Checkpoint, b: Checkpoint, name: str) -> bool:
    one, other = a.manifest.tensors.get(name), b.manifest.tensors.get(name)
    return (
        one is not None
        and other is not None
        and one.dtype == other.dtype == "F32"
        and one.shape == other.shape
    )


def _distance(a: Checkpoint, b: Checkpoint, name: str) -> TensorDistance:
    """Reads both tensors block by block."""
    numel = a.tensor(name).numel
    differing, ulps, absolute, relative = 0, 0, 0.0, 0.0
    for start in range(0, numel, _BLOCK_ELEMENTS):
        count = min(_BLOCK_ELEMENTS, numel - start)
        bits_a, bits_b = (c.read(name, start, count).view(np.int32) for c in (a, b))
        unequal = bits_a != bits_b
        bits_a, bits_b = bits_a[unequal], bits_b[unequal]
        if not len(bits_a):
            continue
        differing += len(bits_a)
        ulps = max(ulps, ulps_max(bits_a, bits_b))
        x, y = (bits.view(np.float32).astype(np.float64) for bits in (bits_a, bits_b))
        with np.errstate(invalid="ignore"):  # infinity less infinity is NaN, and left out
            far = np.abs(x - y)
            scale = np.maximum(np.abs(x), np.abs(y))
            relative = max(relative, _largest(far / np.where(scale == 0, 1.0, scale)))
        absolute = max(absolute, _largest(far))
    return TensorDistance(name, a.step, numel, differing, absolute, relative, ulps)


def _largest(values: NDArray[np.float64]) -> float:
    """The largest value that is not NaN; 0 if there is none."""
    return float(np.nanmax(values, initial=0.0))


@dataclass(frozen=True)
class ElementDistance:
    """The distance of two tensors in memory.

    n_elements:   in each.  n_differing: those with different bits.  first_index: of the first of these, flattened.
    ulps_max:     the largest distance in ulps; None for dtypes that are not floats.
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
        """One JSON object; NaN and infinities are strings."""
        return _finite_or_text(asdict(self))


def element_distance(dtype: str, a: bytes, b: bytes) -> ElementDistance | None:
    """The distance of two tensors; None if their bytes are equal.

    dtype: as torch names it, without `torch.`.  a, b: equally many bytes, little-endian.
    """
    assert len(a) == len(b)
    if a == b:
        return None
    carrier = BITS_OF_FLOAT.get(dtype)
    bits_a, bits_b = (np.frombuffer(raw, carrier or np.dtype(dtype)) for raw in (a, b))
    unequal = bits_a != bits_b
    values_a, values_b = (_values(dtype, bits) for bits in (bits_a, bits_b))
    first = int(unequal.argmax())
    with np.errstate(invalid="ignore", over="ignore"):
        absolute = float(np.abs(values_a[unequal] - values_b[unequal]).max())
    return ElementDistance(
        n_elements=len(bits_a),
        n_differing=int(unequal.sum()),
        first_index=first,
        ulps_max=None if carrier is None else ulps_max(bits_a[unequal], bits_b[unequal]),
        absolute_max=absolute,
        a=float(values_a[first]),
        b=float(values_b[first]),
    )


def _values(dtype: str, bits: NDArray[Any]) -> NDArray[np.float64]:
    """The numbers behind the bits: [n], float64."""
    if dtype == "bfloat16":
        return (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if dtype in BITS_OF_FLOAT:
        return bits.view(np.dtype(dtype)).astype(np.float64)
    return bits.astype(np.float64)


def _finite_or_text(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with NaN and infinities as strings."""
    return {
        key: str(value) if isinstance(value, float) and not np.isfinite(value) else value
        for key, value in values.items()
    }
