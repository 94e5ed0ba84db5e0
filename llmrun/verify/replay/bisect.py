"""`llmrun verify --bisect`: executes a step twice and names the first tensor, and so the module, that differs.

Both executions start from the same state and run on one rank, with hooks that only read.  Each also records the step
as any worker does, so it is known whether it gives what a run recorded.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from llmrun.errors import DamagedError
from llmrun.run.trace import TRACE_NAME, TraceEntry, first_different, read_kept, read_trace
from llmrun.storage.ledger.compare import RecordDifference, first_difference
from llmrun.storage.ledger.reader import LedgerReader
from llmrun.text import command
from llmrun.verify.replay.execute import Crew, Leg, LegDone, Route, execute, run_leg, saved_checkpoint
from llmrun.verify.replay.recorded_run import Audited, ReplayEnvironment
from llmrun.verify.replay.tensor_distance import Gap, gap_between


@dataclass(frozen=True)
class Side:
    """One of the two executions.

    label:      as it is told: `A`, `B`, `first`, `second`.
    ground:     what it is executed with, on one rank.  ledger: what the run recorded of these steps.
    """

    label: str
    replay_environment: ReplayEnvironment
    ledger: LedgerReader


@dataclass(frozen=True)
class Bisection:
    """What two executions of the same steps gave.

    steps:      the steps that were executed.
    labels:     of the two.
    n_tensors:  digests that were compared, up to the first difference.
    entry:      the first tensor that differs, as the second execution made it; None where none does.
    gap:        how far it lies apart; None where that could not be caught.
    difference: the first difference between what the two executions recorded; None where none is.
    recorded:   by label, the first difference between what a run had recorded (a) and its execution here (b).
    unsteady:   a third execution, under the first one's settings, differs from the first.
    """

    steps: range
    labels: tuple[str, str]
    n_tensors: int
    entry: TraceEntry | None
    gap: Gap | None
    difference: RecordDifference | None
    recorded: dict[str, RecordDifference | None]
    unsteady: bool = False


def state_before(audited: Audited, step: int, crew: Crew) -> Path | None:
    """A checkpoint of the state after `step`: one of the run's, or one made by executing the steps up to there.

    None for step 0.  Raises DamagedError where these steps do not come out as they were recorded.
    """
    start = audited.start_at_or_before(step)
    if start.unequal:
        assert start.path is not None
        raise DamagedError(
            f"{start.path.name} is not the state that the ledger of {audited.run.name} recorded: "
            f"{', '.join(start.unequal)}"
        )
    if start.step == step:
        return start.path
    done = execute(audited, Route(start, step), crew, saves=True)
    if done.difference is not None:
        raise DamagedError(
            f"the steps before do not come out as {audited.run.name} recorded them: step "
            f"{done.difference.step} differs in {done.difference.quantity}",
            hints=[
                f"`{command('llmrun', 'verify', audited.run.path)} --bisect --from {done.difference.step - 1}` looks into it"
            ],
        )
    return saved_checkpoint(done.done)


def bisect(sides: tuple[Side, Side], state: Path | None, steps: range, crew: Crew) -> Bisection:
    """Execute `steps` (finished steps after each) under both sides' settings, from `state`.

    Raises the workers' error where one of them fails.
    """
    one, other = sides
    first = run_traced(one, state, steps, crew)
    second = run_traced(other, state, steps, crew, against=first.run.path / TRACE_NAME)
    entries, entries_other = (read_trace(done.run.path / TRACE_NAME) for done in (first, second))
    number = first_different(entries, entries_other)
    entry, gap, unsteady = None, None, False
    if number is not None:
        entry = (entries_other if number < len(entries_other) else entries)[number]
        third = run_traced(one, state, steps, crew, kept=number)
        again = first_different(entries, read_trace(third.run.path / TRACE_NAME))
        unsteady = again is not None and again <= number
        gap = gap_of(entry, third, second)
    recorded = {
        side.label: differs_from(side.ledger, done, steps) for side, done in ((one, first), (other, second))
    }
    assert first.ledger is not None
    return Bisection(
        steps=steps,
        labels=(one.label, other.label),
        n_tensors=min(len(entries), len(entries_other)) if number is None else number + 1,
        entry=entry,
        gap=gap,
        difference=differs_from(first.ledger, second, steps),
        recorded=recorded,
        unsteady=unsteady,
    )


def run_traced(
    side: Side,
    state: Path | None,
    steps: range,
    crew: Crew,
    against: Path | None = None,
    kept: int | None = None,
) -> LegDone:
    """One execution.  Raises the workers' error where it does not come to its end."""
    leg = Leg(
        replay_environment=side.replay_environment,
        ledger=side.ledger,
        from_step=steps.start - 1,
        checkpoint=state,
        until_step=steps[-1],
        audits=False,
        traced=True,
        trace_against=against,
        trace_kept=kept,
    )
    done = run_leg(crew.place(), leg, crew.backend, crew.observer)
    if done.ledger is None or done.ledger.last_step < steps[-1]:
        raise done.error
    return done


def differs_from(ledger: LedgerReader, done: LedgerReader | LegDone, steps: range) -> RecordDifference | None:
    """The first of `steps` whose record in `ledger` (a) is not that of an execution (b)."""
    again = done.ledger if isinstance(done, LegDone) else done
    assert again is not None
    return first_difference(ledger, again, range(steps.start, min(steps.stop, ledger.last_step + 1)))


def gap_of(entry: TraceEntry, one: LegDone, other: LegDone) -> Gap | None:
    """How far the tensor of the first difference lies apart; None where one of the two did not make it."""
    kept_one, kept_other = read_kept(one.run.path), read_kept(other.run.path)
    if kept_one is None or kept_other is None or kept_one[0] != kept_other[0]:
        return None
    if len(kept_one[1]) != len(kept_other[1]):
        return None
    return gap_between(entry.dtype, kept_one[1], kept_other[1])


def on_one_rank(crew: Crew) -> Crew:
    """The same crew with D = 1: a trace needs all micro-batches on one rank."""
    return replace(crew, D=1)
