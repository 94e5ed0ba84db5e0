"""Executes recorded steps again, in real workers, in a scratch directory, and compares each record.

Nothing is written into the run itself.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmrun.config.schema import Config
from llmrun.errors import LlmrunError
from llmrun.launch.prepared import checked_by_workers
from llmrun.launch.torchrun import ProcessBackend, WorkerJob
from llmrun.launch.watch import SegmentEnd, SegmentObserver, Watch
from llmrun.run.directory import RunDirectory
from llmrun.run.lock import RunLock
from llmrun.run.signals import StopRequest
from llmrun.run.worker_spec import WorkerSpec
from llmrun.storage.checkpoint.layout import step_name, step_of, steps_in
from llmrun.storage.durable import make_directories, replace_file
from llmrun.storage.ledger.compare import RecordDifference, first_difference
from llmrun.storage.ledger.reader import Header, LedgerReader
from llmrun.storage.metrics import names
from llmrun.storage.metrics.jsonl import number, row_at
from llmrun.verify.replay.recorded_run import Audited, ReplayEnvironment, StartState

SEGMENT = 1
"""Each leg of a replay is the only segment of a run directory of its own."""


@dataclass(frozen=True)
class Leg:
    """Steps to execute in one go: `from_step` + 1 to `until_step`.

    ledger:      what was recorded.
    checkpoint:  the state after `from_step`; None starts anew.
    audits:      whether the leg ends at the first step that differs from `ledger`, after it is recorded anew.
    saves:       whether the state after `until_step` is saved.
    compared:    checkpoints that the state must equal at their steps.
    traced, trace_against, trace_kept: see `SegmentOrders`.
    """

    replay_environment: ReplayEnvironment
    ledger: LedgerReader
    from_step: int
    checkpoint: Path | None
    until_step: int
    audits: bool = True
    saves: bool = False
    compared: Sequence[Path] = ()
    traced: bool = False
    trace_against: Path | None = None
    trace_kept: int | None = None


@dataclass(frozen=True)
class LegDone:
    """A leg that has ended.

    ledger:       what was recorded anew; its first record is that of `from_step`.  None where nothing was.
    end:          how the workers ended.
    step_seconds: of a step, over the last steps; None where no step was recorded.
    wall_seconds: from the start of the workers to their end.
    """

    run: RunDirectory
    ledger: LedgerReader | None
    end: SegmentEnd
    step_seconds: float | None
    wall_seconds: float

    @property
    def error(self) -> LlmrunError:
        """Why the leg ended early: without hints that speak of the scratch directory."""
        error = self.end.error
        assert error is not None, f"{self.run.path} ended early: {self.end.why}"
        error.hints = tuple(hint for hint in error.hints if hint.subject != str(self.run.path))
        return error


def only_training(config: Config, *, traced: bool) -> Config:
    """`config` without evaluation, saving by steps or time, and comparison with other runs.

    All of these are operational.  The tokens are checked by their digests in the ledger, so whole shards are not
    hashed.  A trace sees each module once where no block is executed twice.
    """
    found = config.model_copy(
        update={
            "eval": config.eval.model_copy(update={"every_steps": None}),
            "checkpoint": config.checkpoint.model_copy(update={"every_steps": None, "every_minutes": None}),
            "data": config.data.model_copy(update={"verify": "never"}),
            "reproducibility": config.reproducibility.model_copy(update={"compare_with": "none"}),
        }
    )
    return found.model_copy(update={"activation_checkpointing": "none"}) if traced else found


def run_leg(directory: Path, leg: Leg, backend: ProcessBackend, observer: SegmentObserver) -> LegDone:
    """Execute a leg in `directory`, which must not exist.

    The end of a leg whose steps differ from what was recorded is a failure too: compare the ledgers first.
    """
    run = RunDirectory(directory)
    make_directories(run.segment_logs(SEGMENT))
    make_directories(run.checkpoints)
    if leg.checkpoint is not None:
        begin_ledger(run.ledger_file, leg.ledger, leg.from_step)
    orders_of(leg).write(run.worker_spec_file(SEGMENT))
    begun_s = time.monotonic()
    with RunLock.acquire(run.lock_file) as lock:
        ranks = leg.replay_environment.resolved.batch.D
        workers = backend.start(WorkerJob(run, SEGMENT, ranks, leg.replay_environment.environment))
        watch = Watch(run, SEGMENT, ranks, leg.from_step, workers, StopRequest(), lock, observer)
        end = watch.until_end()
    wall_seconds = time.monotonic() - begun_s
    ledger = LedgerReader(run.ledger_file) if run.ledger_file.exists() else None
    return LegDone(run, ledger, end, step_seconds_of(run, leg.until_step), wall_seconds)


def begin_ledger(path: Path, recorded: LedgerReader, step: int) -> None:
    """A ledger that begins with the record of `step` and nothing else."""
    before = recorded.chain_at(step - 1) if step else b""
    header = Header(recorded.header.producer, recorded.header.quantities, step, before)
    index = step - recorded.first_step
    replace_file(path, [header.to_bytes(), recorded.words[index : index + 1].data])


def orders_of(leg: Leg) -> WorkerSpec:
    """What the workers of a leg are told."""
    replay_environment = leg.replay_environment
    config = only_training(replay_environment.resolved.config, traced=leg.traced)
    return WorkerSpec(
        segment=SEGMENT,
        D=replay_environment.resolved.batch.D,
        from_step=leg.from_step,
        checkpoint=None if leg.checkpoint is None else str(leg.checkpoint.resolve()),
        until_step=leg.until_step,
        fingerprint=replay_environment.here.digest,
        parts=replay_environment.here.parts,
        config=config.model_dump(mode="json", by_alias=True),
        audit_tails=[str(leg.ledger.path.resolve())] if leg.audits else [],
        reference_ledger=None,
        data_path=str(replay_environment.data_path),
        saves=leg.saves,
        compared=[str(path.resolve()) for path in leg.compared],
        traced=leg.traced,
        trace_against=None if leg.trace_against is None else str(leg.trace_against.resolve()),
        trace_kept=leg.trace_kept,
        preimages=checked_by_workers(replay_environment.here),
    )


def step_seconds_of(run: RunDirectory, until_step: int) -> float | None:
    """Seconds a step took on the last steps up to `until_step`, from the tokens per second in metrics.jsonl.

    None where these are gone.  What happens between steps (evaluation, a save) is not in it.
    """
    row = row_at(run.metrics_file, until_step)
    if row is None:
        return None
    speed = number(row.get(names.TOTAL_TOKENS_PER_SECOND))
    tokens = number(row.get(names.TOKENS))
    return tokens / row[names.STEP] / speed if tokens and speed else None


@dataclass(frozen=True)
class Crew:
    """Who executes, and where.

    scratch: a directory for what the workers write.  D, data: as for `ground_for`.
    """

    backend: ProcessBackend
    observer: SegmentObserver
    scratch: Path
    D: int | None = None
    data: Path | None = None

    def place(self) -> Path:
        """A directory that does not exist yet."""
        return self.scratch / f"leg-{sum(1 for _ in self.scratch.iterdir()) + 1:03d}"


@dataclass(frozen=True)
class Route:
    """Steps to execute again: `start.step` + 1 to `until_step`."""

    start: StartState
    until_step: int


@dataclass(frozen=True)
class SavedState:
    """A checkpoint that the executed state was compared with.  differing: tensors with other bytes."""

    name: str
    step: int
    n_tensors: int
    differing: tuple[str, ...]


@dataclass(frozen=True)
class RouteDone:
    """What came of a route.

    n_equal:       steps whose records were equal.
    difference:    the first difference; `a` is what the run recorded.  done: the last leg, which met it.
    saved_states:  the checkpoints on the way.
    step_seconds:  of a step here.  training_step_seconds: of these steps in the run.  None where not known.
    wall_seconds:  from start to end.
    """

    route: Route
    replay_environments: tuple[ReplayEnvironment, ...]
    n_equal: int
    difference: RecordDifference | None
    done: LegDone
    saved_states: tuple[SavedState, ...]
    step_seconds: float | None
    training_step_seconds: float | None
    wall_seconds: float


def execute(audited: Audited, route: Route, crew: Crew, saves: bool = False) -> RouteDone:
    """Execute a route: one leg for each stretch of steps under one fingerprint.

    saves: whether the state after the last step is saved, in the last leg's directory.
    Raises the workers' error where they fail without having recorded a difference.
    """
    legs = legs_of(audited, route, crew, saves)
    checkpoint = route.start.path
    done: LegDone | None = None
    difference: RecordDifference | None = None
    saved: list[SavedState] = []
    wall_seconds = 0.0
    for leg in legs:
        done = run_leg(crew.place(), replace(leg, checkpoint=checkpoint), crew.backend, crew.observer)
        wall_seconds += done.wall_seconds
        difference = compare_leg(leg, done)
        saved += saved_states_of(done)
        if difference is not None or any(state.differing for state in saved):
            break
        checkpoint = saved_checkpoint(done)
    assert done is not None
    reached = route.until_step if difference is None else difference.step - 1
    return RouteDone(
        route=route,
        replay_environments=tuple(leg.replay_environment for leg in legs),
        n_equal=max(reached - route.start.step, 0),
        difference=difference,
        done=done,
        saved_states=tuple(saved),
        step_seconds=done.step_seconds,
        training_step_seconds=step_seconds_of(audited.run, route.until_step),
        wall_seconds=wall_seconds,
    )


def legs_of(audited: Audited, route: Route, crew: Crew, saves: bool) -> list[Leg]:
    """The legs of a route; all but the first get their checkpoint from the leg before."""
    legs = []
    for stretch in audited.stretches:
        first, last = max(stretch.from_step, route.start.step), min(stretch.to_step, route.until_step)
        if first < last:
            legs.append(
                Leg(
                    replay_environment=audited.replay_environment(last, crew.backend, crew.D, crew.data),
                    ledger=audited.ledger,
                    from_step=first,
                    checkpoint=None,
                    until_step=last,
                    saves=saves or last < route.until_step,
                    compared=audited.checkpoints_within(first, last),
                )
            )
    assert legs, f"no step from {route.start.step} to {route.until_step}"
    return legs


def compare_leg(leg: Leg, done: LegDone) -> RecordDifference | None:
    """The first difference between what a leg recorded and what the run did.

    Raises the workers' error where they came to their end neither by finishing nor by a difference.
    """
    found = None
    if done.ledger is not None and done.ledger.n_records:
        start = leg.from_step + 1 if leg.from_step else 0
        found = first_difference(leg.ledger, done.ledger, range(start, done.ledger.last_step + 1))
    if found is None and (done.ledger is None or done.ledger.last_step < leg.until_step):
        raise done.error
    return found


def saved_states_of(done: LegDone) -> list[SavedState]:
    """What the workers found of the checkpoints on their way; those that went away are left out."""
    path = done.run.path / "saved-states.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    return [
        SavedState(name, step_of(name) or 0, entry["tensors"], tuple(entry["differing"]))
        for name, entry in found.items()
        if entry is not None
    ]


def saved_checkpoint(done: LegDone) -> Path | None:
    """The checkpoint that a leg saved at its end; None where it saved none."""
    steps = steps_in(done.run.checkpoints)
    return done.run.checkpoints / step_name(steps[-1]) if steps else None
