"""The verdict of a comparison, and its JSON."""

from dataclasses import dataclass, field
from typing import Any, Literal

from llmrun.config.differences import ABSENT
from llmrun.storage.ledger.distance import Distance
from llmrun.verify.differing_tensors import ElementChange
from llmrun.verify.fingerprints import FingerprintComparison
from llmrun.verify.tensor_distance import TensorDistance

FindingKind = Literal["difference", "damage", "strict"]
Outcome = Literal["equal", "different", "damaged", "nothing_compared"]


@dataclass(frozen=True)
class Finding:
    """Why two operands are not equal.

    step:          the first step that differs or is damaged; 0 means before the first step.  None if the damage
                   belongs to no step, or only the fingerprints differ (`strict`).
    quantity:      the first quantity that differs there: data, loss, gradients, grad_norm, optimizer, weights, rng,
                   config.  None for damage, and if only the lengths differ (`strict`).
    diagnosis:     what it means, in words.
    quantities:    all quantities that differ at that step, in causal order.
    tensors:       names of the tensors that differ, if their digests were kept.
    tensors_step, tensors_quantity:  step and quantity (gradients, optimizer, weights, rng) of those digests.
    module:        the part of the model that the tensors point at, if it is one.
    elements:      single elements that explain the digests of their tensors.
    kind:          different bits; a damaged file; or equal bits that `--strict` does not accept.
    """

    step: int | None
    quantity: str | None
    diagnosis: str
    quantities: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    tensors_step: int | None = None
    tensors_quantity: str | None = None
    module: str | None = None
    elements: tuple[ElementChange, ...] = ()
    kind: FindingKind = "difference"


@dataclass(frozen=True)
class Verdict:
    """Whether two operands are equal, and the first difference.

    a, b:              the operands as the user named them.
    finding:           why they are not equal; None if no difference was found.
    steps_compared:    finished steps of which a quantity other than `data` was compared.
    quantities_compared: quantities that both hold and were compared: some of data, loss, gradients, grad_norm,
                       optimizer, weights, rng.
    complete:          both end at the same step, and neither is torn or damaged.
    last_step:         the last step that was compared.
    ends:              the last steps of A and B, if both have ledgers.
    chain:             the chain after the last step, if it is the same in both.
    checkpoints:       steps of the checkpoints that were read byte by byte in both, and are equal.
    tensors_compared:  tensors in those checkpoints.
    distances:         distances of loss and grad_norm from the first different step on, by quantity.
    tensor_distances:  distances of some differing tensors, in the next checkpoint that both have.
    differing_steps:   the number of steps whose records differ.
    equal_again_from:  the step from which on all records are equal; None if the last compared one differs.
    damage:            one line for each damaged or edited file.
    notes:             one line for each thing that was left out, with the reason.
    """

    a: str
    b: str
    finding: Finding | None
    steps_compared: int
    complete: bool
    last_step: int
    quantities_compared: tuple[str, ...]
    fingerprints: FingerprintComparison
    ends: tuple[int, int] | None = None
    chain: str | None = None
    checkpoints: tuple[int, ...] = ()
    tensors_compared: int = 0
    distances: dict[str, list[Distance]] = field(default_factory=dict)
    tensor_distances: tuple[TensorDistance, ...] = ()
    differing_steps: int = 0
    equal_again_from: int | None = None
    damage: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """The verdict in one word; `nothing_compared` if nothing but the data, or nothing at all, was compared."""
        if self.finding is not None:
            return "damaged" if self.finding.kind == "damage" else "different"
        return "equal" if set(self.quantities_compared) - {"data"} else "nothing_compared"

    @property
    def equal(self) -> bool | None:
        """Whether all compared bits (with `strict` also length and fingerprint) are equal; None: nothing compared."""
        return None if self.outcome == "nothing_compared" else self.outcome == "equal"

    def as_json(self) -> dict[str, Any]:
        """The verdict with stable keys."""
        return {
            "a": self.a,
            "b": self.b,
            "equal": self.equal,
            **_finding_json(self.finding),
            "steps_compared": self.steps_compared,
            "quantities_compared": list(self.quantities_compared),
            "complete": self.complete,
            "last_steps": {"a": self.ends[0], "b": self.ends[1]} if self.ends else None,
            "chain": self.chain,
            "checkpoints_compared": list(self.checkpoints),
            "tensors_compared": self.tensors_compared,
            "distances": {name: [d.as_json() for d in rows] for name, rows in self.distances.items()},
            "tensor_distances": [distance.as_json() for distance in self.tensor_distances],
            "differing_steps": self.differing_steps,
            "equal_again_from": self.equal_again_from,
            **_fingerprints_json(self.fingerprints),
            "damage": list(self.damage),
            "notes": list(self.notes),
        }


def _finding_json(finding: Finding | None) -> dict[str, Any]:
    """The keys of a finding; null and [] without one."""
    return {
        "first_step": finding.step if finding else None,
        "quantity": finding.quantity if finding else None,
        "quantities": list(finding.quantities) if finding else [],
        "tensors": list(finding.tensors) if finding else [],
        "tensors_step": finding.tensors_step if finding else None,
        "tensors_quantity": finding.tensors_quantity if finding else None,
        "module": finding.module if finding else None,
        "elements": [change.as_json() for change in finding.elements] if finding else [],
        "diagnosis": finding.diagnosis if finding else None,
    }


def _fingerprints_json(found: FingerprintComparison) -> dict[str, Any]:
    """The keys of the fingerprints; a field that one side lacks is null there."""
    return {
        "fingerprints_equal": found.equal,
        "fingerprints": {
            side: [{"from_step": span.from_step, "fingerprint": span.digest} for span in spans]
            for side, spans in (("a", found.a), ("b", found.b))
        },
        "fingerprint_parts": list(found.parts),
        "fingerprint_changes": [
            {"part": change.part, "key": change.key, "a": _or_null(change.old), "b": _or_null(change.new)}
            for change in found.changes
        ],
    }


def _or_null(value: Any) -> Any:
    return None if value is ABSENT else value
