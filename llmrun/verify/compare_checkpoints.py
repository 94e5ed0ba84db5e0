"""Compares a checkpoint: with another one tensor by tensor, or with the ledger record of its step."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from llmrun.errors import InputError, NothingComparedError
from llmrun.run.record_check import compare_with_record, groups_of
from llmrun.storage.checkpoint.errors import CheckpointDamage
from llmrun.storage.checkpoint.reader import Checkpoint, open_checkpoint
from llmrun.storage.checkpoint.verification import Progress, open_verified, verify_files
from llmrun.storage.ledger.tensors import differing_tensors
from llmrun.text import counted
from llmrun.verify.diagnosis import cause, shared_module
from llmrun.verify.fingerprints import (
    FingerprintComparison,
    FingerprintSpan,
    compare_fingerprints,
    fingerprint_of_checkpoint,
    fingerprint_spans,
)
from llmrun.verify.operands import Operand
from llmrun.verify.report import Finding, Verdict
from llmrun.verify.tensor_distance import distances_of_tensors

QUANTITY_ORDER = ("optimizer", "weights", "rng")
"""The quantities that a checkpoint holds, in causal order."""


@dataclass(frozen=True)
class StateDifference:
    """How two checkpoints of one step differ.

    tensors: names of the differing tensors by quantity (optimizer, weights, rng); quantities without any are absent.
    """

    step: int
    tensors: Mapping[str, list[str]]

    @property
    def quantity(self) -> str:
        """The first quantity that differs, in causal order."""
        return next(quantity for quantity in QUANTITY_ORDER if quantity in self.tensors)


@dataclass
class StatesCompared:
    """The result of comparing all checkpoints that two runs have in common.

    steps:      steps of the checkpoints that were read byte by byte and are equal.
    n_tensors:  tensors compared in them.
    difference: the first difference.
    damage:     one line for each damaged checkpoint.
    notes:      one line for each checkpoint that could not be compared.
    """

    steps: list[int] = field(default_factory=list)
    n_tensors: int = 0
    difference: StateDifference | None = None
    damage: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify_checkpoints(a: Operand, b: Operand, progress: Progress | None = None) -> Verdict:
    """Compare two checkpoints, both read byte by byte.

    Raises CheckpointDamage, and NothingComparedError if they are of different steps.
    """
    one, other = open_verified(a.path, progress), open_verified(b.path, progress)
    if one.step != other.step:
        raise NothingComparedError(
            f"nothing was compared: A is the state after step {one.step}, B is the state after step {other.step}",
            hints=["give checkpoints of one step, or the runs they belong to"],
        )
    fingerprints = compare_fingerprints(
        fingerprint_of_checkpoint(one.manifest), fingerprint_of_checkpoint(other.manifest)
    )
    difference = compare_states(one, other)
    same_history = one.manifest.chain == other.manifest.chain
    return Verdict(
        a=str(a.path),
        b=str(b.path),
        finding=None if difference is None else state_finding(difference, fingerprints),
        steps_compared=one.step if same_history else 0,
        quantities_compared=QUANTITY_ORDER if one.manifest.tensors or other.manifest.tensors else (),
        complete=True,
        last_step=one.step,
        fingerprints=fingerprints,
        chain=one.manifest.chain if same_history else None,
        checkpoints=(one.step,) if difference is None else (),
        tensors_compared=len(one.manifest.tensors),
        tensor_distances=()
        if difference is None
        else distances_of_tensors(one, other, differing_names(one, other)),
        notes=() if same_history else ("the chains differ: the steps before these states were not the same",),
    )


def state_finding(difference: StateDifference, fingerprints: FingerprintComparison) -> Finding:
    """The finding for two saved states whose ledgers do not differ up to there."""
    names = difference.tensors[difference.quantity]
    place = shared_module(names) if difference.quantity != "rng" else None
    counts = ", ".join(
        f"{counted(len(tensors), 'tensor')} of {quantity}" for quantity, tensors in difference.tensors.items()
    )
    return Finding(
        step=difference.step,
        quantity=difference.quantity,
        diagnosis=f"the states saved at step {difference.step} differ in {counts}; {cause(fingerprints)}",
        quantities=tuple(difference.tensors),
        tensors=tuple(names),
        tensors_step=difference.step,
        tensors_quantity=difference.quantity,
        module=None if place is None else place.module,
    )


def verify_checkpoint_with_run(a: Operand, b: Operand, progress: Progress | None = None) -> Verdict:
    """Compare a checkpoint with what a ledger recorded at its step; the order of the operands does not matter.

    Equal chains mean that all steps up to there were equal.
    Raises CheckpointDamage, and NothingComparedError if the ledger does not hold the step.
    """
    saved, run = (a, b) if a.kind == "checkpoint" else (b, a)
    checkpoint = open_verified(saved.path, progress)
    step = checkpoint.step
    ledger = run.ledger
    assert ledger is not None
    if step not in ledger.steps:
        raise NothingComparedError(
            f"nothing was compared: {saved.label} is the state after step {step}, "
            f"the ledger of {run.label} holds steps {ledger.first_step} to {ledger.last_step}"
        )
    spans = {saved.label: fingerprint_of_checkpoint(checkpoint.manifest), run.label: _span_at(run, step)}
    fingerprints = compare_fingerprints(spans["A"], spans["B"])
    damage = (*_damage_up_to(run, step), *run.contradictions)
    record = ledger.record(step)
    unequal = compare_with_record(checkpoint, record)
    same_history = "chain" not in unequal
    compared = [("optimizer", record.optimizer_digest), ("weights", record.weights_digest)]
    quantities = tuple(name for name in ("tokens", "optimizer", "weights") if name in unequal)
    finding = None
    if damage:
        finding = Finding(ledger.verify_chain(), None, damage[0], kind="damage")
    elif quantities:
        message = f"the state saved after step {step} is not the one that the ledger of {run.label} recorded"
        finding = Finding(step, quantities[0], f"{message}; {cause(fingerprints)}", quantities)
    return Verdict(
        a=str(a.path),
        b=str(b.path),
        finding=finding,
        steps_compared=step if same_history and not damage else 0,
        quantities_compared=tuple(name for name, digest in compared if digest is not None),
        complete=same_history and step == ledger.last_step,
        last_step=step,
        fingerprints=fingerprints,
        chain=checkpoint.manifest.chain if same_history else None,
        damage=damage,
        notes=_notes(checkpoint, run, same_history),
    )


def _damage_up_to(run: Operand, step: int) -> tuple[str, ...]:
    """What is wrong with the ledger of `run` up to `step`."""
    assert run.ledger is not None
    broken = run.ledger.verify_chain()
    if broken is None or broken > step:
        return ()
    return (f"record {broken} of the ledger of {run.label} does not hold: it was damaged or edited",)


def _span_at(run: Operand, step: int) -> tuple[FingerprintSpan, ...]:
    """The fingerprint under which a run made `step`, as a span from step 0; () if it is not known."""
    if run.record is None or run.contradictions:
        return ()
    span = [span for span in fingerprint_spans(run.record) if span.from_step < max(step, 1)][-1]
    return (FingerprintSpan(0, span.digest, span.parts, span.preimages),)


def _notes(checkpoint: Checkpoint, run: Operand, same_history: bool) -> tuple[str, ...]:
    assert run.ledger is not None
    notes = []
    if run.ledger.record(checkpoint.step).optimizer_digest is None:
        notes.append(
            f"the ledger holds no digest of the optimizer state at step {checkpoint.step}: not compared"
        )
    if not same_history:
        notes.append("the chains differ: the steps before this state were not the same")
    return tuple(notes)


def compare_states(a: Checkpoint, b: Checkpoint) -> StateDifference | None:
    """Compare two sound checkpoints of one step: digests of all tensors, bytes of all random states."""
    groups_a, groups_b = groups_of(a.manifest), groups_of(b.manifest)
    found = {name: differing_tensors(groups_a[name], groups_b[name]) for name in groups_a}
    found["rng"] = _differing_rng(a, b)
    differing = {quantity: names for quantity, names in found.items() if names}
    return StateDifference(a.step, differing) if differing else None


def differing_names(a: Checkpoint, b: Checkpoint) -> list[str]:
    """The names of the differing weights, then of the differing tensors of the optimizer state."""
    groups_a, groups_b = groups_of(a.manifest), groups_of(b.manifest)
    return [
        name for quantity in groups_a for name in differing_tensors(groups_a[quantity], groups_b[quantity])
    ]


def _differing_rng(a: Checkpoint, b: Checkpoint) -> list[str]:
    """The names of the random states that are not equal byte by byte."""
    states_a, states_b = a.rng(), b.rng()
    shared = [name for name in states_a if name in states_b]
    unequal = [
        name
        for name in shared
        if states_a[name].dtype != states_b[name].dtype or not np.array_equal(states_a[name], states_b[name])
    ]
    return [*unequal, *sorted(states_a.keys() ^ states_b.keys())]


def open_sound(
    path: Path, compared: StatesCompared, label: str, every_byte: bool, progress: Progress | None = None
) -> Checkpoint | None:
    """Open a checkpoint after checking its structure and, with `every_byte`, its files.

    Returns None if it is damaged (recorded in `compared.damage`) or was pruned meanwhile by its own run.
    """
    try:
        damages = verify_files(path, progress) if every_byte else []
        if not damages:
            return open_checkpoint(path)
    except CheckpointDamage as error:
        damages = list(error.damages)
    except (InputError, FileNotFoundError):
        damages = []
    if not path.is_dir():
        compared.notes.append(f"{path.name} of {label} was removed meanwhile and is not compared")
        return None
    compared.damage += [f"checkpoint {damage} ({label})" for damage in damages]
    return None
