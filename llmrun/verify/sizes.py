"""How far the tensors of two checkpoints lie apart, element by element."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrun.checkpoint.contents import Checkpoint

TENSORS_MAX = 8
_BLOCK_ELEMENTS = 1 << 22
_SIGN = np.int64(1 << 31)


@dataclass(frozen=True)
class TensorDistance:
    """Two tensors of one name and shape, float32.

    elements, differing:  in all, and those whose bits differ.
    absolute, relative:   the largest |a - b|, and the largest |a - b| / max(|a|, |b|).  NaN counts as not measurable
                          and is left out.
    ulps:                 the most floats between two values.
    """

    tensor: str
    step: int
    elements: int
    differing: int
    absolute: float
    relative: float
    ulps: int

    def as_json(self) -> dict[str, Any]:
        """As one JSON object; an infinite distance as a string."""
        numbers = {"absolute": self.absolute, "relative": self.relative}
        return {
            "tensor": self.tensor,
            "step": self.step,
            "elements": self.elements,
            "differing": self.differing,
            **{name: value if np.isfinite(value) else str(value) for name, value in numbers.items()},
            "ulps": self.ulps,
        }


def distances_of_tensors(a: Checkpoint, b: Checkpoint, names: Sequence[str]) -> tuple[TensorDistance, ...]:
    """The distances of the first few of `names` that both checkpoints hold as float32 of one shape."""
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
        one, other = (c.read(name, start, count).view(np.float32) for c in (a, b))
        unequal = one.view(np.uint32) != other.view(np.uint32)
        x, y = one[unequal], other[unequal]
        if not len(x):
            continue
        differing += len(x)
        ulps = max(ulps, int(np.abs(_ranks(x) - _ranks(y)).max()))
        with np.errstate(invalid="ignore"):  # infinity less infinity is NaN, and left out
            far = np.abs(x.astype(np.float64) - y)
            scale = np.maximum(np.abs(x), np.abs(y)).astype(np.float64)
            relative = max(relative, _largest(far / np.where(scale == 0, 1.0, scale)))
        absolute = max(absolute, _largest(far))
    return TensorDistance(name, a.step, numel, differing, absolute, relative, ulps)


def _largest(values: NDArray[np.float64]) -> float:
    """The largest value that is not NaN; 0 where there is none."""
    return float(np.nanmax(values, initial=0.0))


def _ranks(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """The position of each float among all floats; -0.0 lies directly below 0.0."""
    bits = values.view(np.uint32).astype(np.int64)
    return np.where(bits >= _SIGN, -1 - (bits - _SIGN), bits)
