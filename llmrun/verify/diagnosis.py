"""Says what a difference means: the ledgers tell which inputs were equal, the fingerprints what may be the cause."""

from llmrun.ledger.compare import Difference
from llmrun.ledger.explain import Explanation, explain
from llmrun.verify.data_order import ONE_CHANGED
from llmrun.verify.fingerprints import Fingerprints
from llmrun.verify.modules import Place, first_in_backward, shared_module
from llmrun.verify.states import StateDifference
from llmrun.verify.tensors import DifferingTensors, ElementChange

_CHANGES_MAX = 3
_ORDER_FIELDS = ("seed", "batch.", "data.", "T_tokens")
"""Fields of the config that decide which samples a step has."""


def place_of(difference: Difference, tensors: DifferingTensors) -> Place | None:
    """The part of the model that the differing tensors point at, where they are those of the differing quantity."""
    if tensors.step != difference.step or tensors.quantity is None or not tensors.names:
        return None
    if difference.quantity == "gradients" and tensors.quantity == "gradients":
        return first_in_backward(tensors.names)
    if difference.quantity in {tensors.quantity, "gradients"}:
        return shared_module(tensors.names)
    return None


def diagnose(
    difference: Difference,
    fingerprints: Fingerprints,
    tensors: DifferingTensors,
    detail: str = "",
    equal_again: int | None = None,
) -> str:
    """The first difference of two ledgers in words.

    tensors:      those that differ, as far as it is known.
    detail:       what is known of the tokens or the learning rates that differ.
    equal_again:  the step from which on nothing differs any more.
    """
    place = place_of(difference, tensors)
    explanation = explain(difference, _where(place, tensors))
    if difference.quantity == "data" and _same_order(fingerprints):
        what = "data differ" if detail.startswith(ONE_CHANGED) else "data order differs"
        fact = f"{what} from step {difference.step} although dataset and seed are equal"
        explanation = Explanation(fact, explanation.guess)
    says = f"{explanation.fact}: {detail}" if detail else str(explanation)
    if fingerprints.equal is False and not detail:
        says = explanation.fact
    healed = (
        f"; equal again from step {equal_again} on: the difference did not last"
        if equal_again is not None
        else ""
    )
    return f"{says}{healed}; {cause(fingerprints)}"


def _where(place: Place | None, tensors: DifferingTensors) -> str:
    """A module, and what else differs; or a tensor, and which of its elements."""
    if place is None:
        return ""
    if len(tensors.changes) == 1 and len(tensors.names) == 1:
        return f"{place.module} {said_of_element(tensors.changes[0])}"
    if not place.others:
        return place.module
    return f"{place.module} (and in {place.others} parameters before it, which its backward pass reaches)"


def said_of_element(change: ElementChange) -> str:
    """`[3, 5] alone, by 1 ulp`."""
    size = abs(change.ulps)
    says = "1 ulp" if size == 1 else f"{size:,} ulps"
    bit = f" (bit {size.bit_length() - 1})" if size & (size - 1) == 0 and size > 1 else ""
    return f"[{', '.join(map(str, change.index))}] alone, by {says}{bit}"


def _same_order(fingerprints: Fingerprints) -> bool:
    """Whether nothing that decides the samples of a step differs, as far as it is known."""
    if fingerprints.equal is None or "data" in fingerprints.parts:
        return False
    known = fingerprints.equal or fingerprints.changes or "config" not in fingerprints.parts
    return bool(known) and not any(
        change.part == "config" and change.key.startswith(_ORDER_FIELDS) for change in fingerprints.changes
    )


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
