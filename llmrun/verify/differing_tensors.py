"""Names the tensors that differ between two runs, from the nearest digests of single tensors that both kept."""

from dataclasses import dataclass

import numpy as np

from llmrun.core.combined_digest import TensorDigest, combine_digests
from llmrun.errors import DamagedError, InputError
from llmrun.run.record_check import groups_of
from llmrun.storage.checkpoint.errors import CheckpointDamage
from llmrun.storage.checkpoint.reader import open_checkpoint
from llmrun.storage.ledger.changed_word import find_changed_word
from llmrun.storage.ledger.compare import RecordDifference
from llmrun.storage.ledger.tensors import (
    TENSOR_QUANTITIES,
    Group,
    differing_tensors,
    read_tensors,
    steps_kept,
)
from llmrun.verify.operands import Operand

Groups = dict[str, dict[str, TensorDigest]]


@dataclass(frozen=True)
class ElementChange:
    """The only element of a tensor that differs, found from the two digests of the tensor.

    index:  its place in the tensor.
    ulps:   bits of B less bits of A as integers: the number of float32 values from A to B, signed.
    """

    tensor: str
    index: tuple[int, ...]
    ulps: int

    def as_json(self) -> dict[str, str | int | list[int]]:
        """As one JSON object."""
        return {"tensor": self.tensor, "index": list(self.index), "ulps": self.ulps}


@dataclass(frozen=True)
class DifferingTensors:
    """The tensors of one quantity that differ after one step.

    step, quantity:  of the digests; None if none were kept.
    names:           in the order of the model's parameters.
    changes:         for tensors whose two digests are explained by one changed element.
    """

    step: int | None = None
    quantity: str | None = None
    names: tuple[str, ...] = ()
    changes: tuple[ElementChange, ...] = ()


_CHANGES_MAX = 8


def name_tensors(a: Operand, b: Operand, difference: RecordDifference, last_step: int) -> DifferingTensors:
    """The tensors that differ at the first step from `difference.step` to `last_step` of which both kept digests.

    Those of the differing quantity if its digests were kept at `difference.step`; otherwise of weights, or of
    gradients or optimizer if no weight differs.
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
            return DifferingTensors(step, quantity, tuple(names), changes)
    return DifferingTensors()


def changed_elements(a: Group, b: Group, names: list[str]) -> tuple[ElementChange, ...]:
    """The single changed elements that explain the digests of `names`; () for more than 8 tensors."""
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
    """The digests kept at `step`: from `ledger-tensors/`, else from a checkpoint's manifest.

    A group that does not combine to the ledger's digest belongs to another state (a stale file) and is left out.
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
    """The digests in `ledger-tensors/`; {} if there are none or the file is damaged."""
    try:
        return read_tensors(operand.ledger_tensors, step) or {}
    except DamagedError:
        return {}


def _groups_of_checkpoint(operand: Operand, step: int) -> Groups:
    """The digests in a checkpoint's manifest; {} if it is missing or damaged (reported by compare_runs)."""
    if step not in operand.checkpoints:
        return {}
    try:
        return groups_of(open_checkpoint(operand.checkpoints[step]).manifest)
    except (CheckpointDamage, InputError):
        return {}
