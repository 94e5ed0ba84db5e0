"""Compares two runs by their ledgers and by the checkpoints that both hold."""

from dataclasses import dataclass, replace
from pathlib import Path

from llmrun.errors import InputError, NothingComparedError
from llmrun.run.record_check import compare_with_record
from llmrun.storage.checkpoint.errors import CheckpointDamage
from llmrun.storage.checkpoint.layout import step_name
from llmrun.storage.checkpoint.reader import Checkpoint, open_checkpoint
from llmrun.storage.checkpoint.verification import Progress
from llmrun.storage.ledger.compare import (
    Extent,
    RecordDifference,
    common_extent,
    common_steps,
    differing_steps,
    equal_records,
    first_difference,
)
from llmrun.storage.ledger.distance import Distance, growth
from llmrun.storage.ledger.reader import LedgerReader
from llmrun.storage.ledger.record import QUANTITIES
from llmrun.verify.compare_checkpoints import (
    QUANTITY_ORDER,
    StatesCompared,
    compare_states,
    differing_names,
    open_sound,
    state_finding,
    verify_checkpoint_with_run,
    verify_checkpoints,
)
from llmrun.verify.diagnosis import cause, diagnose, explain_rate, explain_tokens, place_of
from llmrun.verify.differing_tensors import name_tensors
from llmrun.verify.fingerprints import (
    FingerprintComparison,
    FingerprintSpan,
    compare_fingerprints,
    fingerprint_spans,
)
from llmrun.verify.operands import Operand, open_operand
from llmrun.verify.report import Finding, Verdict
from llmrun.verify.tensor_distance import TensorDistance, distances_of_tensors


@dataclass(frozen=True)
class LedgersCompared:
    """The result of comparing two ledgers.

    steps:        the steps whose records were compared: both hold them undamaged.
    difference:   the first difference.
    n_different:  steps whose records differ.
    equal_again:  the step from which on all records are equal; None if the last one differs, or none does.
    broken_step:  the first step whose record does not hold in one of them; None if all hold.
    chain:        the chain after the last step, if it is the same in both.
    extent:       the number of these steps with quantities that both hold, and which these are.
    complete:     both end at the same step, and neither is torn or damaged.
    """

    steps: range
    difference: RecordDifference | None
    broken_step: int | None
    chain: str | None
    complete: bool
    damage: tuple[str, ...]
    notes: tuple[str, ...]
    extent: Extent
    n_different: int = 0
    equal_again: int | None = None


def compare_ledgers(a: LedgerReader, b: LedgerReader) -> LedgersCompared:
    """Compare two ledgers over the steps that both hold.

    Raises NothingComparedError if they have no step in common.
    """
    both = common_steps(a, b)
    if not both:
        raise NothingComparedError(f"nothing was compared: A holds {_held(a)}, B holds {_held(b)}")
    found = _first_broken(a, b)
    broken = {label: step for label, step in found.items() if step is not None}
    steps = range(both.start, min([both.stop, *broken.values()]))
    difference = first_difference(a, b, steps)
    chain = None
    if steps and difference is None and a.chain_at(steps[-1]) == b.chain_at(steps[-1]):
        chain = a.chain_at(steps[-1]).hex()
    return LedgersCompared(
        steps,
        difference,
        min(broken.values(), default=None),
        chain,
        a.steps == b.steps and a.ends_cleanly and b.ends_cleanly and not broken,
        tuple(
            f"record {step} of the ledger of {label} does not hold: it was damaged or edited"
            for label, step in broken.items()
        ),
        (*_notes("A", a), *_notes("B", b), *_unrecorded(a, b)),
        common_extent(a, b, steps),
        *_later(a, b, difference, steps),
    )


def _first_broken(a: LedgerReader, b: LedgerReader) -> dict[str, int | None]:
    """The first step of each whose record does not hold.  Links of equal records are computed once."""
    broken = a.verify_chain()
    sound = equal_records(a, b) if broken is None else min(equal_records(a, b), broken - a.first_step)
    return {"A": broken, "B": b.verify_chain(b.first_step + sound)}


def _later(
    a: LedgerReader, b: LedgerReader, difference: RecordDifference | None, steps: range
) -> tuple[int, int | None]:
    """(number of steps that differ, the step from which on none does)."""
    if difference is None:
        return 0, None
    count, last = differing_steps(a, b, range(difference.step, steps.stop))
    return count, None if last is None or last == steps[-1] else last + 1


def distances_of(compared: LedgersCompared, a: LedgerReader, b: LedgerReader) -> dict[str, list[Distance]]:
    """The distances of loss and gradient norm from the first different step on, if they differ at all."""
    if compared.difference is None:
        return {}
    first, last = compared.difference.step, compared.steps[-1]
    rows = {name: growth(a, b, name, first, last) for name in ("loss", "grad_norm")}
    return {name: row for name, row in rows.items() if any(distance.ulps for distance in row)}


def _held(ledger: LedgerReader) -> str:
    if not ledger.n_records:
        return "no step"
    return f"steps {ledger.first_step} to {ledger.last_step}"


def _notes(label: str, ledger: LedgerReader) -> list[str]:
    if ledger.torn_step is None:
        return []
    return [f"the ledger of {label} ends within the record of step {ledger.torn_step}, which is left out"]


def _unrecorded(a: LedgerReader, b: LedgerReader) -> list[str]:
    """One line for each side that lacks quantities of the other."""
    return [
        f"{label} does not record {', '.join(missing)}: not compared"
        for label, own, other in (("A", a, b), ("B", b, a))
        if (missing := [q for q in QUANTITIES if q in other.header.quantities - own.header.quantities])
    ]


def compare_shared(
    a: Operand, b: Operand, steps: range, stop: int | None, progress: Progress | None = None
) -> StatesCompared:
    """Compare the checkpoints of `steps` that both runs hold, up to the first difference.

    stop: checkpoints of this step and later ones are not compared; None compares all.
    Compared checkpoints are read byte by byte; of all others of `steps` the structure is checked.  Each checkpoint is
    compared with the ledger of its own run.
    """
    compared = StatesCompared()
    shared = {step for step in a.checkpoints.keys() & b.checkpoints.keys() if stop is None or step < stop}
    opened = {s.label: _open_all(s, steps, shared, compared, progress) for s in (a, b)}
    for step in sorted(shared):
        if step not in opened["A"] or step not in opened["B"]:
            continue
        compared.difference = compare_states(opened["A"][step], opened["B"][step])
        if compared.difference is not None:
            break
        compared.steps.append(step)
        compared.n_tensors += len(opened["A"][step].manifest.tensors)
    return compared


def _open_all(
    operand: Operand, steps: range, shared: set[int], compared: StatesCompared, progress: Progress | None
) -> dict[int, Checkpoint]:
    """The checkpoints of one run that are sound and as its ledger recorded; the others go into `compared.damage`."""
    assert operand.ledger is not None
    opened = {}
    for step, path in operand.checkpoints.items():
        if step > operand.ledger.last_step:
            compared.damage.append(
                f"the ledger of {operand.label} ends at step {operand.ledger.last_step}, "
                f"before its checkpoint {step_name(step)}"
            )
        if step not in steps:
            continue
        checkpoint = open_sound(path, compared, operand.label, every_byte=step in shared, progress=progress)
        if checkpoint is None:
            continue
        unequal = compare_with_record(checkpoint, operand.ledger.record(step))
        if unequal:
            compared.damage.append(
                f"checkpoint {path.name} of {operand.label} is not the state that its ledger recorded: "
                f"{', '.join(unequal)}"
            )
            continue
        opened[step] = checkpoint
    return opened


def verify_runs(
    path_a: Path, path_b: Path, strict: bool = False, progress: Progress | None = None
) -> Verdict:
    """Compare the bits of two operands; with `strict` also their lengths and fingerprints.

    path_a, path_b: directories of runs or checkpoints, or ledger files.
    progress: called with the bytes read of a checkpoint.
    Raises InputError if a path is none of these, NothingComparedError if they have no step in common, DamagedError if
    the header of a ledger is damaged, CheckpointDamage if a checkpoint given by its path is.
    """
    a, b = open_operand("A", path_a), open_operand("B", path_b)
    if a.kind == b.kind == "checkpoint":
        verdict = verify_checkpoints(a, b, progress)
    elif "checkpoint" in (a.kind, b.kind):
        verdict = verify_checkpoint_with_run(a, b, progress)
    else:
        verdict = _verify_ledgers(a, b, progress)
    if strict and verdict.equal:
        return replace(verdict, finding=_strict_finding(verdict))
    return verdict


def _verify_ledgers(a: Operand, b: Operand, progress: Progress | None) -> Verdict:
    """Compare two operands that have ledgers."""
    assert a.ledger is not None
    assert b.ledger is not None
    ledgers = compare_ledgers(a.ledger, b.ledger)
    spans_a, spans_b = _spans(a), _spans(b)
    fingerprints = compare_fingerprints(spans_a, spans_b)
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
    """The compared quantities, of the ledgers and of the equal checkpoints."""
    of_states = QUANTITY_ORDER if states.steps else ()
    return tuple(dict.fromkeys([*ledgers.extent.quantities, *of_states]))


def _spans(operand: Operand) -> tuple[FingerprintSpan, ...]:
    """The fingerprints of a run; () if they are unknown, or run.json contradicts itself."""
    return () if operand.record is None or operand.contradictions else fingerprint_spans(operand.record)


def _finding(
    a: Operand,
    b: Operand,
    ledgers: LedgersCompared,
    states: StatesCompared,
    fingerprints: FingerprintComparison,
) -> Finding | None:
    """The first difference.  Saved states are compared only up to the first different record, so theirs comes first."""
    if states.difference is not None:
        return state_finding(states.difference, fingerprints)
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
    a: Operand, b: Operand, finding: Finding | None, last_step: int
) -> tuple[TensorDistance, ...]:
    """The distances of differing tensors in the first checkpoints after the difference that both hold.

    Checkpoints that cannot be read are skipped: their damage is in `Verdict.damage`.
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
    """The finding if files are damaged and nothing differs before the damage."""
    return Finding(ledgers.broken_step, None, damage[0], kind="damage") if damage else None


def _strict_finding(verdict: Verdict) -> Finding | None:
    """The finding if equal bits are not enough for `strict`: other lengths or fingerprints."""
    if not verdict.complete:
        ends = "" if verdict.ends is None else f": A at step {verdict.ends[0]}, B at step {verdict.ends[1]}"
        message = f"the bits are equal up to step {verdict.last_step}, but not both end there{ends}"
        return Finding(verdict.last_step + 1, None, message, kind="strict")
    if verdict.fingerprints.equal:
        return None
    message = f"the bits are equal, but {cause(verdict.fingerprints)}"
    return Finding(None, "config", message, kind="strict")
