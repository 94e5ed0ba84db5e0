"""Which module made the difference: between two runs, or between two executions of one run's steps."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmrun.errors import InputError, Place
from llmrun.provenance.fingerprint import Change, compare
from llmrun.run.trace import TraceEntry
from llmrun.storage.ledger.compare import RecordDifference
from llmrun.verify.compare_runs import verify_runs
from llmrun.verify.fingerprints import Fingerprints
from llmrun.verify.replay.bisect import Bisection, Side, bisect, on_one_rank, state_before
from llmrun.verify.replay.execute import Crew
from llmrun.verify.replay.recorded_run import Audited, open_audited
from llmrun.verify.report import Finding, Verdict

OF_MODULES = ("loss", "gradients")
"""The quantities in which modules can part first; before them come data, after them sums and updates."""


@dataclass(frozen=True)
class Located:
    """What a bisection found.

    verdict:   of the comparison; with two runs that of `llmrun verify A B`.
    bisection: None where modules cannot be the cause, as `says` tells.
    settings:  in what the two executions were set differently, in effect.
    says:      one statement.
    notes:     what could not be executed as it was.  two_runs: whether two runs were given.
    """

    verdict: Verdict
    bisection: Bisection | None
    settings: tuple[Change, ...]
    message: str
    notes: tuple[str, ...] = ()
    two_runs: bool = True

    def as_json(self) -> dict[str, Any]:
        """The keys of `llmrun verify A B`, and what only a bisection has under `bisect`."""
        found = self.bisection
        return {
            **self.verdict.as_json(),
            "bisect": {
                "says": self.message,
                "steps": [] if found is None else list(found.steps),
                "tensors_compared": 0 if found is None else found.n_tensors,
                "module": None if found is None or found.entry is None else found.entry.module,
                "first": None if found is None or found.entry is None else entry_json(found.entry),
                "distance": None if found is None or found.gap is None else found.gap.as_json(),
                "settings": [str(change) for change in self.settings],
                "as_recorded": {} if found is None else {k: d is None for k, d in found.recorded.items()},
                "unsteady": False if found is None else found.unsteady,
            },
        }


def entry_json(entry: TraceEntry) -> dict[str, Any]:
    """The first tensor that differs, without its digest."""
    return {
        "step": entry.step,
        "micro_batch": entry.micro_batch,
        "phase": entry.phase,
        "module": entry.module,
        "what": entry.what,
        "dtype": entry.dtype,
        "shape": list(entry.shape),
    }


def locate_between(path_a: Path, path_b: Path, crew: Crew) -> Located:
    """At the first divergent step of two runs: the first tensor that differs under A's and under B's settings.

    Raises InputError where one is no run, and what `state_before` and `bisect` raise.
    """
    verdict = verify_runs(path_a, path_b)
    if verdict.finding is None:
        message = "A and B are equal" if verdict.equal else "nothing of A and B could be compared"
        return Located(verdict, None, (), f"nothing to bisect: {message}")
    step, quantity = verdict.finding.step, verdict.finding.quantity
    if step is None or quantity not in OF_MODULES:
        what = "damaged" if quantity is None else f"different in {quantity} first"
        return Located(verdict, None, (), f"nothing to bisect: A and B are {what}, which no module makes")
    a, b = open_audited(path_a, "A"), open_audited(path_b, "B")
    begin = max((a, b), key=lambda run: run.start_at_or_before(step - 1).step)
    state = state_before(begin, step - 1, crew)
    sides = (side_of("A", a, step, crew), side_of("B", b, step, crew))
    found = bisect(sides, state, range(step, step + 1), crew)
    settings = tuple(compare(sides[0].replay_environment.here, sides[1].replay_environment.here))
    notes = tuple(note for side in sides for note in not_as_then(side))
    verdict = replace(verdict, notes=(*verdict.notes, *notes))
    return Located(verdict, found, settings, said_of(found), notes)


def locate_in(path: Path, from_step: int | None, n_steps: int, crew: Crew) -> Located:
    """Execute steps of one run twice under the same settings: a kernel that is not deterministic shows itself.

    from_step: the step before them; None: that of the last checkpoint that has steps after it.
    Raises InputError where there are no such steps, and what `state_before` and `bisect` raise.
    """
    audited = open_audited(path)
    if from_step is None:
        from_step = audited.start_at_or_before(audited.last_step - 1).step
    if from_step >= audited.last_step:
        raise InputError(
            f"there is no step after {from_step:,} on record: the ledger of {audited.run.name} ends at step "
            f"{audited.last_step:,}",
            where=Place(option="--from"),
        )
    last = min(from_step + n_steps, audited.stretch_of(from_step + 1).to_step)
    steps = range(from_step + 1, last + 1)
    state = state_before(audited, from_step, crew)
    side = side_of("first", audited, steps.start, crew)
    found = bisect((side, replace(side, label="second")), state, steps, crew)
    verdict = Verdict(
        a=str(path),
        b="replay",
        finding=finding_of(found),
        steps_compared=len(steps),
        quantities_compared=("loss", "gradients"),
        complete=False,
        last_step=last,
        fingerprints=Fingerprints(
            side.replay_environment.here.digest == side.replay_environment.recorded.digest, (), ()
        ),
        notes=tuple(not_as_then(side)),
    )
    return Located(verdict, found, (), said_of(found), verdict.notes, two_runs=False)


def side_of(label: str, audited: Audited, step: int, crew: Crew) -> Side:
    """What a run's `step` is executed with."""
    own = on_one_rank(crew)
    return Side(label, audited.replay_environment(step, own.backend, own.D, own.data), audited.ledger)


def not_as_then(side: Side) -> list[str]:
    """In what an execution here cannot be as it was."""
    changes = compare(side.replay_environment.recorded, side.replay_environment.here)
    if not changes:
        return []
    shown = ", ".join(str(change) for change in changes[:3])
    more = f", {len(changes) - 3} more" if len(changes) > 3 else ""
    return [
        f"{'the step' if side.label == 'first' else side.label} is executed with what is here, not as it was: {shown}{more}"
    ]


def finding_of(found: Bisection) -> Finding | None:
    """What two executions of one run say about it; None where both give what was recorded."""
    difference = found.difference or next((d for d in found.recorded.values() if d is not None), None)
    if difference is not None:
        return Finding(difference.step, difference.quantity, said_of(found), difference.quantities)
    if found.entry is not None:
        quantity = "loss" if found.entry.phase == "forward" else "gradients"
        return Finding(found.entry.step, quantity, said_of(found), (quantity,))
    return None


def said_of(found: Bisection) -> str:
    """The result in one statement."""
    if found.entry is None:
        return said_without_module(found)
    where = (
        f"{module_name(found.entry.module)}: {found.entry.what}, {found.entry.phase} pass of micro-batch "
        f"{found.entry.micro_batch} in step {found.entry.step:,}"
    )
    if found.unsteady or found.labels == ("first", "second"):
        return f"{where}; the same settings give other bits: this kernel is not deterministic here, or hardware errs"
    missed = [label for label, difference in found.recorded.items() if difference is not None]
    if missed:
        return f"{where}; but what {' and '.join(missed)} recorded does not come out again"
    return f"{where}; each execution gives what its run recorded, so the settings in which they differ are the cause"


def said_without_module(found: Bisection) -> str:
    """The result where no module differs."""
    one, other = found.labels
    if found.difference is not None:
        return (
            f"every tensor that modules hand on is equal; {found.difference.quantity} differs after that: where "
            "gradients are added, or the update"
        )
    missed = {label: difference for label, difference in found.recorded.items() if difference is not None}
    if not missed:
        return "both executions are equal in every tensor, and give what was recorded"
    named = ", ".join(f"{label} ({said_difference(d)})" for label, d in missed.items())
    if found.labels == ("first", "second"):
        return f"both executions are equal in every tensor, but not what was recorded: {said_difference(next(iter(missed.values())))}"
    if len(missed) == 1:
        kept = one if other in missed else other
        return (
            f"both executions are equal in every tensor, and give what {kept} recorded; what {next(iter(missed))} recorded "
            "does not come out again: hardware that erred, an edited record, or something that the fingerprint does not cover"
        )
    return f"both executions are equal in every tensor, but give neither record: {named}"


def said_difference(difference: RecordDifference) -> str:
    """`step 12 differs in gradients`."""
    return f"step {difference.step:,} differs in {difference.quantity}"


def module_name(module: str) -> str:
    """A module's name; the model itself has none."""
    return module or "the model itself, outside its modules"
