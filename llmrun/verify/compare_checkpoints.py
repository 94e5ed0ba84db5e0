"""`verify` where at least one side is a checkpoint."""

from llmrun.errors import NothingComparedError
from llmrun.run.record_check import compare_with_record
from llmrun.storage.checkpoint.reader import Checkpoint
from llmrun.storage.checkpoint.verification import Progress, open_verified
from llmrun.verify.diagnosis import cause, diagnose_state, shared_module
from llmrun.verify.fingerprints import Era, compare_eras, era_of_checkpoint, eras_of_run
from llmrun.verify.operands import Operand
from llmrun.verify.report import Finding, Verdict
from llmrun.verify.states import QUANTITY_ORDER, StateDifference, compare_states, differing_names
from llmrun.verify.tensor_diff import distances_of_tensors


def verify_checkpoints(a: Operand, b: Operand, progress: Progress | None = None) -> Verdict:
    """Two checkpoints, both read byte by byte.

    Raises CheckpointDamage, NothingComparedError if they are of different steps.
    """
    one, other = open_verified(a.path, progress), open_verified(b.path, progress)
    if one.step != other.step:
        raise NothingComparedError(
            f"nothing was compared: A is the state after step {one.step}, B that after step {other.step}",
            hints=["give checkpoints of one step, or the runs they belong to"],
        )
    fingerprints = compare_eras(era_of_checkpoint(one.manifest), era_of_checkpoint(other.manifest))
    difference = compare_states(one, other)
    finding = None
    if difference is not None:
        finding = state_finding(difference, diagnose_state(difference, fingerprints))
    same_history = one.manifest.chain == other.manifest.chain
    return Verdict(
        a=str(a.path),
        b=str(b.path),
        finding=finding,
        steps_compared=one.step if same_history else 0,
        quantities_compared=QUANTITY_ORDER if one.manifest.tensors or other.manifest.tensors else (),
        complete=True,
        last_step=one.step,
        fingerprints=fingerprints,
        chain=one.manifest.chain if same_history else None,
        checkpoints=(one.step,) if finding is None else (),
        tensors_compared=len(one.manifest.tensors),
        tensor_distances=()
        if difference is None
        else distances_of_tensors(one, other, differing_names(one, other)),
        notes=() if same_history else ("the chains differ: the steps before these states were not the same",),
    )


def state_finding(difference: StateDifference, diagnosis: str) -> Finding:
    """The difference of two saved states."""
    names = difference.tensors[difference.quantity]
    place = shared_module(names) if difference.quantity != "rng" else None
    return Finding(
        step=difference.step,
        quantity=difference.quantity,
        diagnosis=diagnosis,
        quantities=tuple(difference.tensors),
        tensors=tuple(names),
        tensors_step=difference.step,
        tensors_quantity=difference.quantity,
        module=None if place is None else place.module,
    )


def verify_checkpoint_with_run(a: Operand, b: Operand, progress: Progress | None = None) -> Verdict:
    """A checkpoint against what a ledger recorded at its step; the order of the two does not matter.

    Equal chains mean that all steps up to there were equal.
    Raises CheckpointDamage, NothingComparedError if the ledger does not hold the step.
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
    eras = {saved.label: era_of_checkpoint(checkpoint.manifest), run.label: _era_at(run, step)}
    fingerprints = compare_eras(eras["A"], eras["B"])
    damage = (*_damage_up_to(run, step), *run.contradictions)
    record = ledger.record(step)
    unequal = compare_with_record(checkpoint, record)
    same_history = "chain" not in unequal
    compared = [("optimizer", record.optimizer_digest), ("weights", record.weights_digest)]
    quantities = tuple(name for name in ("tokens", "optimizer", "weights") if name in unequal)
    finding = None
    if damage:
        finding = Finding(ledger.verify_chain(), None, damage[0])
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


def _era_at(run: Operand, step: int) -> tuple[Era, ...]:
    """The fingerprint under which a run made `step`."""
    if run.record is None or run.contradictions:
        return ()
    era = [era for era in eras_of_run(run.record) if era.from_step < max(step, 1)][-1]
    return (Era(0, era.digest, era.parts, era.preimages),)


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
