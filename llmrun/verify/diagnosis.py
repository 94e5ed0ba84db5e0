"""Says what a difference means: the ledgers tell which inputs were equal, the fingerprints what may be the cause."""

from llmrun.ledger.compare import Difference
from llmrun.ledger.explain import explain
from llmrun.verify.fingerprints import Fingerprints
from llmrun.verify.states import StateDifference

_CHANGES_MAX = 3


def diagnose(difference: Difference, fingerprints: Fingerprints) -> str:
    """The first difference of two ledgers in words."""
    return f"{explain(difference)}; {cause(fingerprints)}"


def diagnose_state(difference: StateDifference, fingerprints: Fingerprints) -> str:
    """The first difference of two checkpoints whose ledgers do not differ up to there."""
    counts = ", ".join(
        f"{len(names)} {'tensor' if len(names) == 1 else 'tensors'} of {quantity}"
        for quantity, names in difference.tensors.items()
    )
    return f"the states saved at step {difference.step} differ in {counts}; {cause(fingerprints)}"


def cause(fingerprints: Fingerprints) -> str:
    """What the fingerprints say about a difference."""
    if fingerprints.equal is None:
        return "the fingerprints are not known"
    if fingerprints.equal:
        return "the fingerprints are equal, so config, data, code and environment are not the cause"
    parts = " and ".join(fingerprints.parts) or "the steps they apply to"
    shown = [str(change) for change in fingerprints.changes[:_CHANGES_MAX]]
    more = len(fingerprints.changes) - len(shown)
    if more > 0:
        shown.append(f"{more} more")
    listed = f" ({', '.join(shown)})" if shown else ""
    return f"the fingerprints differ in {parts}{listed}"
