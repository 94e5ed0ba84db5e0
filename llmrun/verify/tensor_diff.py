"""Which tensors differ, named from the nearest kept digests, and how far they lie apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrun.core.tensor_digest import TensorDigest, combine_digests
from llmrun.errors import DamagedError, InputError
from llmrun.run.record_check import groups_of
from llmrun.storage.checkpoint.errors import CheckpointDamage
from llmrun.storage.checkpoint.reader import Checkpoint, open_checkpoint
from llmrun.storage.ledger.compare import RecordDifference
from llmrun.storage.ledger.tensors import (
    TENSOR_QUANTITIES,
    Group,
    differing_tensors,
    read_tensors,
    steps_kept,
)
from llmrun.storage.ledger.word_search import find_changed_word
from llmrun.storage.ulps import ulps_max
from llmrun.verify.operands import Operand

Groups = dict[str, dict[str, TensorDigest]]


@dataclass(frozen=True)
class ElementChange:
    """The only element of a tensor that differs, found from two digests.

    index:  its place in the tensor.
    ulps:   how many floats lie between the two values, those of A and B; negative where the integer of A's bits
            is the larger one.
    """

    tensor: str
    index: tuple[int, ...]
    ulps: int

    def as_json(self) -> dict[str, str | int | list[int]]:
        """As one JSON object."""
        return {"tensor": self.tensor, "index": list(self.index), "ulps": self.ulps}


@dataclass(frozen=True)
class DifferingTensors:
    """The tensors that differ at one step.

    step, quantity:  whose digests these are; None where none were kept.
    names:           in the order of the model's parameters.
    total:           tensors of the quantity.
    changes:         of the tensors of which one element explains the two digests.
    """

    step: int | None = None
    quantity: str | None = None
    names: tuple[str, ...] = ()
    total: int = 0
    changes: tuple[ElementChange, ...] = ()


_CHANGES_MAX = 8


def name_tensors(a: Operand, b: Operand, difference: RecordDifference, last_step: int) -> DifferingTensors:
    """The tensors that differ at the difference's step, or at the first step after it that both kept.

    Those of the differing quantity where its digests were kept at the difference's step, of gradients,
    optimizer or weights otherwise; none where nothing was kept up to `last_step`.
    """
    for step in _steps_of_both(a, b, difference.step, last_step):
        groups_a, groups_b = _groups(a, step), _groups(b, step)
        differing = {
            quantity: names
            for quantity in TENSOR_QUANTITIES
            if quantity in groups_a
            and quantity in groups_b
            and (names := differing_tensors(groups_a[quantity], groups_b[quantity]))
        }
        if differing:
            first = difference.quantity if step == difference.step else "weights"
            quantity = first if first in differing else next(iter(differing))
            names = differing[quantity]
            group_a, group_b = groups_a[quantity], groups_b[quantity]
            changes = changed_elements(group_a, group_b, names)
            return DifferingTensors(step, quantity, tuple(names), len(group_a.keys() | group_b), changes)
    return DifferingTensors()


def changed_elements(a: Group, b: Group, names: list[str]) -> tuple[ElementChange, ...]:
    """Of each differing tensor the one element that explains both digests; nothing where many tensors differ."""
    if len(names) > _CHANGES_MAX:
        return ()
    found = [_changed_element(name, a.get(name), b.get(name)) for name in names]
    return tuple(change for change in found if change is not None)


def _changed_element(name: str, a: TensorDigest | None, b: TensorDigest | None) -> ElementChange | None:
    if a is None or b is None or (a.dtype, a.shape) != (b.dtype, b.shape) or a.dtype != "F32":
        return None
    change = find_changed_word(a.digest, b.digest, int(np.prod(a.shape)))
    if change is None:
        return None
    index = tuple(int(n) for n in np.unravel_index(change.index, a.shape))
    return ElementChange(name, index, change.change)


def _steps_of_both(a: Operand, b: Operand, first: int, last: int) -> list[int]:
    """The steps from `first` to `last` at which both keep digests of single tensors, ascending."""
    kept_a, kept_b = ({*steps_kept(s.ledger_tensors), *s.checkpoints} for s in (a, b))
    return sorted(step for step in kept_a & kept_b if first <= step <= last)


def _groups(operand: Operand, step: int) -> Groups:
    """The digests kept at `step`, those of the ledger before those of a checkpoint.

    What does not combine to the digest in the ledger is another state's, left behind, and is passed over.
    """
    groups = _groups_of_ledger(operand, step) or _groups_of_checkpoint(operand, step)
    assert operand.ledger is not None
    record = operand.ledger.record(step)
    stated = {
        "gradients": record.gradients_digest,
        "weights": record.weights_digest,
        "optimizer": record.optimizer_digest,
    }
    return {
        quantity: group
        for quantity, group in groups.items()
        if stated[quantity] in {None, combine_digests(group)}
    }


def _groups_of_ledger(operand: Operand, step: int) -> Groups:
    """The digests in `ledger-tensors/`; {} where there are none, or only a damaged file."""
    try:
        return read_tensors(operand.ledger_tensors, step) or {}
    except DamagedError:
        return {}


def _groups_of_checkpoint(operand: Operand, step: int) -> Groups:
    """The digests in a checkpoint's manifest; {} where it is not there or damaged, which is told elsewhere."""
    if step not in operand.checkpoints:
        return {}
    try:
        return groups_of(open_checkpoint(operand.checkpoints[step]).manifest)
    except (CheckpointDamage, InputError):
        return {}


TENSORS_MAX = 8
_BLOCK_ELEMENTS = 1 << 22


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
        ulps = max(ulps, ulps_max(x, y))
        with np.errstate(invalid="ignore"):  # infinity less infinity is NaN, and left out
            far = np.abs(x.astype(np.float64) - y)
            scale = np.maximum(np.abs(x), np.abs(y)).astype(np.float64)
            relative = max(relative, _largest(far / np.where(scale == 0, 1.0, scale)))
        absolute = max(absolute, _largest(far))
    return TensorDistance(name, a.step, numel, differing, absolute, relative, ulps)


def _largest(values: NDArray[np.float64]) -> float:
    """The largest value that is not NaN; 0 where there is none."""
    return float(np.nanmax(values, initial=0.0))
