"""Executes a step twice and names the first tensor, and so the module, that differs.

The two executions are those of two runs at their first different step, or of one run under the same settings.  Both
start from the same state and run on one rank, with hooks that only read.  Each records the step as any worker does,
so that it is known whether it reproduces the record of its run.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from llmrun.errors import DamagedError
from llmrun.provenance.fingerprint import compare
from llmrun.run.trace import TRACE_NAME, TraceEntry, first_different, read_kept, read_trace
from llmrun.storage.ledger.compare import RecordDifference, first_difference
from llmrun.storage.ledger.reader import LedgerReader
from llmrun.text import command, listed
from llmrun.verify.compare_runs import verify_runs
from llmrun.verify.fingerprints import FingerprintComparison
from llmrun.verify.replay.execute import (
    ExecutedSegment,
    Executor,
    PlannedSteps,
    ReplaySegment,
    execute,
    execute_segment,
    saved_checkpoint,
)
from llmrun.verify.replay.recorded_run import RecordedRun, ReplayEnvironment, open_recorded_run
from llmrun.verify.replay.report import SAME_SETTINGS, Bisection, BisectReport, describe
from llmrun.verify.report import Finding, Verdict
from llmrun.verify.tensor_distance import ElementDistance, element_distance

QUANTITIES_OF_MODULES = ("loss", "gradients")
"""The quantities in which modules can differ first; data precede them, sums and updates follow."""

_CHANGES_MAX = 3


@dataclass(frozen=True)
class Side:
    """One of the two executions.

    label:   `A`, `B`, `first` or `second`.
    replay_environment: for one rank.
    ledger:  what the run recorded of the steps.
    """

    label: str
    replay_environment: ReplayEnvironment
    ledger: LedgerReader


def bisect_runs(path_a: Path, path_b: Path, executor: Executor) -> BisectReport:
    """Execute the first different step of two runs under A's and under B's settings.

    Raises InputError if one is not a run, DamagedError if the steps before are not reproduced, and the workers' error
    if they fail.
    """
    verdict = verify_runs(path_a, path_b)
    if verdict.finding is None:
        return BisectReport(verdict, None)
    step, quantity = verdict.finding.step, verdict.finding.quantity
    if step is None or quantity not in QUANTITIES_OF_MODULES:
        return BisectReport(verdict, None)
    a, b = open_recorded_run(path_a, "A"), open_recorded_run(path_b, "B")
    nearest = max((a, b), key=lambda run: run.start_at_or_before(step - 1).step)
    state = state_before(nearest, step - 1, executor)
    sides = (side_of("A", a, step, executor), side_of("B", b, step, executor))
    found = compare_executions(sides, state, range(step, step + 1), executor)
    settings = tuple(compare(sides[0].replay_environment.here, sides[1].replay_environment.here))
    notes = tuple(note for side in sides for note in unrestored_settings(side))
    return BisectReport(replace(verdict, notes=(*verdict.notes, *notes)), found, settings, notes)


def bisect_run(path: Path, from_step: int | None, n_steps: int, executor: Executor) -> BisectReport:
    """Execute steps of one run twice under the same settings, which shows a kernel that is not deterministic.

    from_step: the step before them; None: that of the last checkpoint that has steps after it.
    Raises InputError if there are no such steps, DamagedError if the steps before are not reproduced, and the workers'
    error if they fail.
    """
    recorded = open_recorded_run(path)
    if from_step is None:
        from_step = recorded.start_at_or_before(recorded.last_step - 1).step
    recorded.check_step_after(from_step)
    last = min(from_step + n_steps, recorded.span_of(from_step + 1).to_step)
    steps = range(from_step + 1, last + 1)
    state = state_before(recorded, from_step, executor)
    side = side_of(SAME_SETTINGS[0], recorded, steps.start, executor)
    found = compare_executions((side, replace(side, label=SAME_SETTINGS[1])), state, steps, executor)
    notes = tuple(unrestored_settings(side))
    verdict = Verdict(
        a=str(path),
        b="replay",
        finding=_finding_of(found),
        steps_compared=len(steps),
        quantities_compared=QUANTITIES_OF_MODULES,
        complete=False,
        last_step=last,
        fingerprints=FingerprintComparison(
            side.replay_environment.here.digest == side.replay_environment.recorded.digest, (), ()
        ),
        notes=notes,
    )
    return BisectReport(verdict, found, notes=notes, two_runs=False)


def side_of(label: str, recorded: RecordedRun, step: int, executor: Executor) -> Side:
    """What a run's `step` is executed with: D = 1, because a trace needs all micro-batches on one rank."""
    environment = recorded.replay_environment(step, executor.backend, 1, executor.data)
    return Side(label, environment, recorded.ledger)


def unrestored_settings(side: Side) -> list[str]:
    """A note if code, data or environment here are not as they were recorded."""
    changes = compare(side.replay_environment.recorded, side.replay_environment.here)
    if not changes:
        return []
    who = "the step" if side.label in SAME_SETTINGS else side.label
    shown = listed([str(change) for change in changes], _CHANGES_MAX)
    return [f"{who} is executed under another fingerprint than recorded: {shown}"]


def _finding_of(found: Bisection) -> Finding | None:
    """The finding of two executions of one run; None if both reproduce its record in every tensor."""
    difference = found.difference or next(iter(found.not_reproduced.values()), None)
    if difference is not None:
        return Finding(difference.step, difference.quantity, describe(found), difference.quantities)
    if found.entry is not None:
        quantity = "loss" if found.entry.phase == "forward" else "gradients"
        return Finding(found.entry.step, quantity, describe(found), (quantity,))
    return None


def state_before(recorded: RecordedRun, step: int, executor: Executor) -> Path | None:
    """A checkpoint of the state after `step`: the run's own, or one made by executing the steps up to there.

    None for step 0.  Raises DamagedError if these steps are not reproduced.
    """
    start = recorded.start_at_or_before(step)
    if start.unequal:
        assert start.path is not None
        raise DamagedError(
            f"{start.path.name} is not the state that the ledger of {recorded.run.name} recorded: "
            f"{', '.join(start.unequal)}"
        )
    if start.step == step:
        return start.path
    done = execute(recorded, PlannedSteps(start, step), executor, saves=True)
    if done.difference is not None:
        again = command("llmrun", "bisect", recorded.run.path)
        raise DamagedError(
            f"cannot reproduce the steps before as {recorded.run.name} recorded them: step "
            f"{done.difference.step} differs in {done.difference.quantity}",
            hints=[f"`{again} --from {done.difference.step - 1}`"],
        )
    return saved_checkpoint(done.last_segment)


def compare_executions(
    sides: tuple[Side, Side], state: Path | None, steps: range, executor: Executor
) -> Bisection:
    """Execute `steps` under the settings of both sides, from `state`, and compare every tensor.

    If a tensor differs, a third execution keeps its bytes and shows whether the first one is reproduced.
    Raises the workers' error if one of them fails.
    """
    one, other = sides
    first = _execute_traced(one, state, steps, executor)
    second = _execute_traced(other, state, steps, executor, against=first.run.path / TRACE_NAME)
    entries, entries_other = (read_trace(done.run.path / TRACE_NAME) for done in (first, second))
    number = first_different(entries, entries_other)
    entry, distance, is_nondeterministic = None, None, False
    if number is not None:
        entry = (entries_other if number < len(entries_other) else entries)[number]
        third = _execute_traced(one, state, steps, executor, kept=number)
        again = first_different(entries, read_trace(third.run.path / TRACE_NAME))
        is_nondeterministic = again is not None and again <= number
        distance = _distance_of_kept(entry, third, second)
    assert first.ledger is not None
    assert second.ledger is not None
    return Bisection(
        steps=steps,
        labels=(one.label, other.label),
        n_tensors=min(len(entries), len(entries_other)) if number is None else number + 1,
        entry=entry,
        distance=distance,
        difference=_first_difference(first.ledger, second.ledger, steps),
        recorded={
            one.label: _first_difference(one.ledger, first.ledger, steps),
            other.label: _first_difference(other.ledger, second.ledger, steps),
        },
        is_nondeterministic=is_nondeterministic,
    )


def _execute_traced(
    side: Side,
    state: Path | None,
    steps: range,
    executor: Executor,
    against: Path | None = None,
    kept: int | None = None,
) -> ExecutedSegment:
    """One execution.  Raises the workers' error if they do not record the last step."""
    segment = ReplaySegment(
        replay_environment=side.replay_environment,
        ledger=side.ledger,
        from_step=steps.start - 1,
        checkpoint=state,
        until_step=steps[-1],
        stops_at_difference=False,
        traced=True,
        trace_against=against,
        trace_kept=kept,
    )
    done = execute_segment(executor.new_directory(), segment, executor.backend, executor.observer)
    if done.ledger is None or done.ledger.last_step < steps[-1]:
        raise done.error
    return done


def _first_difference(a: LedgerReader, b: LedgerReader, steps: range) -> RecordDifference | None:
    """The first difference in `steps`, as far as `a` holds them."""
    return first_difference(a, b, range(steps.start, min(steps.stop, a.last_step + 1)))


def _distance_of_kept(
    entry: TraceEntry, one: ExecutedSegment, other: ExecutedSegment
) -> ElementDistance | None:
    """The distance of the tensor whose bytes both executions kept; None if one of them did not make it."""
    kept_one, kept_other = read_kept(one.run.path), read_kept(other.run.path)
    if kept_one is None or kept_other is None or kept_one[0] != kept_other[0]:
        return None
    if len(kept_one[1]) != len(kept_other[1]):
        return None
    return element_distance(entry.dtype, kept_one[1], kept_other[1])
