"""Names the tensors that differ, from the nearest step of which both sides keep digests of single tensors."""

from dataclasses import dataclass

import numpy as np

from llmrun.checkpoint.errors import CheckpointDamage
from llmrun.checkpoint.reader import open_checkpoint
from llmrun.checkpoint.recorded_state import groups_of
from llmrun.errors import DamagedError, InputError
from llmrun.ledger.combine import TensorDigest, combine_digests
from llmrun.ledger.compare import Difference
from llmrun.ledger.single_word import find_changed_word
from llmrun.ledger.tensors import TENSOR_QUANTITIES, Group, differing_tensors, read_tensors, steps_kept
from llmrun.verify.subject import Subject

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


def name_tensors(a: Subject, b: Subject, difference: Difference, last_step: int) -> DifferingTensors:
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


def _steps_of_both(a: Subject, b: Subject, first: int, last: int) -> list[int]:
    """The steps from `first` to `last` at which both keep digests of single tensors, ascending."""
    kept_a, kept_b = ({*steps_kept(s.ledger_tensors), *s.checkpoints} for s in (a, b))
    return sorted(step for step in kept_a & kept_b if first <= step <= last)


def _groups(subject: Subject, step: int) -> Groups:
    """The digests kept at `step`, those of the ledger before those of a checkpoint.

    What does not combine to the digest in the ledger is another state's, left behind, and is passed over.
    """
    groups = _groups_of_ledger(subject, step) or _groups_of_checkpoint(subject, step)
    assert subject.ledger is not None
    record = subject.ledger.record(step)
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


def _groups_of_ledger(subject: Subject, step: int) -> Groups:
    """The digests in `ledger-tensors/`; {} where there are none, or only a damaged file."""
    try:
        return read_tensors(subject.ledger_tensors, step) or {}
    except DamagedError:
        return {}


def _groups_of_checkpoint(subject: Subject, step: int) -> Groups:
    """The digests in a checkpoint's manifest; {} where it is not there or damaged, which is told elsewhere."""
    if step not in subject.checkpoints:
        return {}
    try:
        return groups_of(open_checkpoint(subject.checkpoints[step]).manifest)
    except (CheckpointDamage, InputError):
        return {}
