"""`llmrun verify A B`: two runs, two checkpoints, or a checkpoint and a run."""

from dataclasses import replace
from pathlib import Path

from llmrun.checkpoint.errors import CheckpointDamage
from llmrun.checkpoint.reader import open_checkpoint
from llmrun.checkpoint.verification import Progress
from llmrun.errors import InputError
from llmrun.verify.checkpoints import state_finding, verify_checkpoint_with_run, verify_checkpoints
from llmrun.verify.data_order import explain_rate, explain_tokens
from llmrun.verify.diagnosis import cause, diagnose, diagnose_state, place_of
from llmrun.verify.fingerprints import Era, Fingerprints, compare_eras, eras_of_run
from llmrun.verify.ledgers import LedgersCompared, compare_ledgers, distances_of
from llmrun.verify.shared import compare_shared
from llmrun.verify.sizes import TensorDistance, distances_of_tensors
from llmrun.verify.states import QUANTITY_ORDER, StatesCompared, differing_names
from llmrun.verify.subject import Subject, open_subject
from llmrun.verify.tensors import name_tensors
from llmrun.verify.verdict import Finding, Verdict


def verify_runs(
    path_a: Path, path_b: Path, strict: bool = False, progress: Progress | None = None
) -> Verdict:
    """Compare the bits of two subjects; with `strict` also their lengths and fingerprints.

    path_a, path_b: directories of runs or checkpoints, or files of ledgers.
    progress: told how many bytes of a checkpoint were read.
    Raises InputError where a path is none of these, NothingComparedError if they have no step in common, DamagedError where
    the header of a ledger is damaged, CheckpointDamage where a checkpoint given by its path is.
    """
    a, b = open_subject("A", path_a), open_subject("B", path_b)
    if a.kind == b.kind == "checkpoint":
        verdict = verify_checkpoints(a, b, progress)
    elif "checkpoint" in (a.kind, b.kind):
        verdict = verify_checkpoint_with_run(a, b, progress)
    else:
        verdict = _verify_ledgers(a, b, progress)
    if strict and verdict.equal:
        return replace(verdict, finding=_strict_finding(verdict))
    return verdict


def _verify_ledgers(a: Subject, b: Subject, progress: Progress | None) -> Verdict:
    """Two subjects with ledgers."""
    assert a.ledger is not None
    assert b.ledger is not None
    ledgers = compare_ledgers(a.ledger, b.ledger)
    eras_a, eras_b = _eras(a), _eras(b)
    fingerprints = compare_eras(eras_a, eras_b)
    stop = None if ledgers.difference is None else ledgers.difference.step
    states = compare_shared(a, b, ledgers.steps, stop, progress)
    damage = (*ledgers.damage, *states.damage, *a.contradictions, *b.contradictions)
    finding = _finding(a, b, ledgers, states, fingerprints)
    running = [f"{s.label} is still running, or was killed" for s in (a, b) if s.running]
    return Verdict(
        a=str(a.path),
        b=str(b.path),
        finding=finding or _damage_finding(ledgers, damage),
        steps_compared=ledgers.extent.n_steps,
        quantities_compared=_quantities(ledgers, states),
        complete=ledgers.complete,
        last_step=ledgers.steps.stop - 1,
        ends=(a.ledger.last_step, b.ledger.last_step),
        fingerprints=fingerprints,
        chain=ledgers.chain,
        checkpoints=tuple(states.steps),
        tensors_compared=states.n_tensors,
        distances=distances_of(ledgers, a.ledger, b.ledger),
        tensor_distances=_tensor_distances(a, b, finding, ledgers.steps.stop - 1),
        differing_steps=ledgers.n_different,
        equal_again_from=ledgers.equal_again,
        damage=damage,
        notes=(*ledgers.notes, *states.notes, *running),
    )


def _quantities(ledgers: LedgersCompared, states: StatesCompared) -> tuple[str, ...]:
    """What was compared: of the ledgers, and of the checkpoints that were equal."""
    of_states = QUANTITY_ORDER if states.steps else ()
    return tuple(dict.fromkeys([*ledgers.extent.quantities, *of_states]))


def _eras(subject: Subject) -> tuple[Era, ...]:
    """The fingerprints of a run; () if they are not known, or run.json contradicts itself."""
    return () if subject.record is None or subject.contradictions else eras_of_run(subject.record)


def _finding(
    a: Subject, b: Subject, ledgers: LedgersCompared, states: StatesCompared, fingerprints: Fingerprints
) -> Finding | None:
    """The first difference: of saved states before that of the ledgers, where there is one."""
    if states.difference is not None:
        return state_finding(states.difference, diagnose_state(states.difference, fingerprints))
    difference = ledgers.difference
    if difference is None:
        return None
    tensors = name_tensors(a, b, difference, ledgers.steps[-1])
    detail = (
        explain_tokens(a, b, difference) if difference.quantity == "data" else explain_rate(a, difference)
    )
    place = place_of(difference, tensors)
    return Finding(
        step=difference.step,
        quantity=difference.quantity,
        diagnosis=diagnose(difference, fingerprints, tensors, detail, ledgers.equal_again),
        quantities=difference.quantities,
        tensors=tensors.names,
        tensors_step=tensors.step,
        tensors_quantity=tensors.quantity,
        module=place.module if place is not None else None,
        elements=tensors.changes,
    )


def _tensor_distances(
    a: Subject, b: Subject, finding: Finding | None, last_step: int
) -> tuple[TensorDistance, ...]:
    """How far apart the differing tensors are in the first checkpoints from the difference on that both hold.

    Checkpoints that cannot be read are passed over: damage is told elsewhere.
    """
    if finding is None or finding.step is None or finding.quantity in {None, "config"}:
        return ()
    for step in sorted(s for s in a.checkpoints.keys() & b.checkpoints if finding.step <= s <= last_step):
        try:
            one, other = open_checkpoint(a.checkpoints[step]), open_checkpoint(b.checkpoints[step])
            return distances_of_tensors(one, other, differing_names(one, other))
        except (CheckpointDamage, InputError, FileNotFoundError):
            continue
    return ()


def _damage_finding(ledgers: LedgersCompared, damage: tuple[str, ...]) -> Finding | None:
    """Damage, where nothing differs before it."""
    return Finding(ledgers.broken_step, None, damage[0]) if damage else None


def _strict_finding(verdict: Verdict) -> Finding | None:
    """What `strict` demands beyond equal bits, and does not find."""
    if not verdict.complete:
        ends = "" if verdict.ends is None else f": A at step {verdict.ends[0]}, B at step {verdict.ends[1]}"
        says = f"the bits are equal up to step {verdict.last_step}, but not both end there{ends}"
        return Finding(verdict.last_step + 1, None, says)
    if verdict.fingerprints.equal:
        return None
    return Finding(None, "config", f"the bits are equal, but {cause(verdict.fingerprints)}")
