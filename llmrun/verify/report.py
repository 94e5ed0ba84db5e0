"""What `llmrun verify A B` found, and its JSON."""

from dataclasses import dataclass, field
from typing import Any

from llmrun.config.differences import ABSENT
from llmrun.storage.ledger.distance import Distance
from llmrun.verify.fingerprints import Fingerprints
from llmrun.verify.tensor_diff import ElementChange, TensorDistance


@dataclass(frozen=True)
class Finding:
    """Why two subjects are not equal: where they part, or what is damaged.

    step:          the first step that differs or is damaged; 0 means before the first step.  None where the
                   damage is of no step, or only the fingerprints differ (`strict`).
    quantity:      what differs first there: data, loss, gradients, grad_norm, optimizer, weights, rng, config.
                   None for damage, and where only the lengths differ (`strict`).
    diagnosis:     what it means, in words.
    quantities:    all that differs at that step, in causal order.
    tensors:       names of the tensors that differ, as far as their digests were kept.
    tensors_step:  the step of which those digests are; None where there are none.
    tensors_quantity:  whose tensors these are: gradients, optimizer, weights or rng.
    module:        the part of the model that they point at, where they point at one.
    elements:      single elements that explain the digests of their tensors.
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


@dataclass(frozen=True)
class Verdict:
    """Whether two subjects are equal, and where they part.

    a, b:              the subjects as the user named them.
    finding:           why they are not equal; None where they are.
    steps_compared:    finished steps of which something that tells bits was compared.
    quantities_compared: what both hold and was compared: some of data, loss, gradients, grad_norm, optimizer,
                       weights, rng.
    complete:          both end at the same step, and neither is torn or damaged.
    last_step:         the last step that was compared.
    ends:              the last steps of A and B; None where there are not two ledgers.
    fingerprints:      the comparison of fingerprints.
    chain:             the chain after the last step, where it is the same in both.
    checkpoints:       steps whose checkpoints were read byte by byte in both, and are equal.
    tensors_compared:  tensors in those checkpoints.
    distances:         by quantity (loss, grad_norm) how far apart both are from the first different step on.
    tensor_distances:  how far apart some of the differing tensors are, in the next checkpoints of both.
    differing_steps:   steps whose records differ.
    equal_again_from:  the step from which on no record differs any more; None where the last compared one does.
    damage:            what is damaged or was edited, in words.
    notes:             what was left out, and why.
    """

    a: str
    b: str
    finding: Finding | None
    steps_compared: int
    complete: bool
    last_step: int
    quantities_compared: tuple[str, ...]
    fingerprints: Fingerprints
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
    def equal(self) -> bool | None:
        """Same bits wherever both hold something; with `strict` also same length and fingerprint.

        None: nothing that tells bits of the result was compared, so neither equal nor different can be said.
        """
        if self.finding is not None:
            return False
        return True if set(self.quantities_compared) - {"data"} else None

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
    """The keys that tell where two subjects part; null and [] where they are equal."""
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


def _fingerprints_json(found: Fingerprints) -> dict[str, Any]:
    """The keys that tell of fingerprints; a field that one side lacks is null there."""
    return {
        "fingerprints_equal": found.equal,
        "fingerprints": {
            side: [{"from_step": era.from_step, "fingerprint": era.digest} for era in eras]
            for side, eras in (("a", found.a), ("b", found.b))
        },
        "fingerprint_parts": list(found.parts),
        "fingerprint_changes": [
            {"part": change.part, "key": change.key, "a": _or_null(change.old), "b": _or_null(change.new)}
            for change in found.changes
        ],
    }


def _or_null(value: Any) -> Any:
    return None if value is ABSENT else value
