"""Names the tensors that differ, from the nearest step of which both sides keep digests of single tensors."""

from llmrun.checkpoint.errors import CheckpointDamage
from llmrun.checkpoint.reader import open_checkpoint
from llmrun.errors import DamagedError, InputError
from llmrun.ledger.combine import TensorDigest, combine_digests
from llmrun.ledger.compare import Difference
from llmrun.ledger.tensors import TENSOR_QUANTITIES, differing_tensors, read_tensors, steps_kept
from llmrun.verify.states import groups_of
from llmrun.verify.subject import Subject

Groups = dict[str, dict[str, TensorDigest]]


def name_tensors(
    a: Subject, b: Subject, difference: Difference, last_step: int
) -> tuple[tuple[str, ...], int | None]:
    """The tensors that differ at the difference's step, or at the first step after it that both kept.

    Returns (names, step): of the differing quantity where its digests were kept at the difference's step,
    of gradients, optimizer or weights otherwise; ((), None) where nothing was kept up to `last_step`.
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
            return tuple(differing.get(first) or next(iter(differing.values()))), step
    return (), None


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
