"""Executes recorded steps again with real workers, in scratch directories, and compares each record.

Nothing is written into the run.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmrun.config.schema import Config
from llmrun.errors import LlmrunError
from llmrun.launch.prepared_segment import make_worker_spec
from llmrun.launch.scratch_segment import run_scratch_segment
from llmrun.launch.torchrun import ProcessBackend
from llmrun.launch.watch import SegmentEnd, SegmentObserver
from llmrun.run.directory import RunDirectory
from llmrun.run.worker_spec import WorkerSpec
from llmrun.storage.checkpoint.layout import step_name, step_of, steps_in
from llmrun.storage.durable import make_directories, replace_file
from llmrun.storage.ledger.compare import RecordDifference, first_difference
from llmrun.storage.ledger.reader import Header, LedgerReader
from llmrun.storage.metrics import names
from llmrun.storage.metrics.jsonl import number, row_at
from llmrun.verify.replay.recorded_run import RecordedRun, ReplayEnvironment, StartState

SEGMENT = 1
"""Each segment of a replay is the only one of a scratch run directory."""


@dataclass(frozen=True)
class ReplaySegment:
    """Steps to execute with one start of the workers: `from_step` + 1 to `until_step`.

    ledger:      what the run recorded.
    checkpoint:  the state after `from_step`; None makes the initial state.
    stops_at_difference: whether the segment ends after the first record that differs from `ledger`.
    saves:       whether the state after `until_step` is saved.
    compared:    checkpoints that the state is compared with at their steps.
    traced, trace_against, trace_kept: see `WorkerSpec`.
    """

    replay_environment: ReplayEnvironment
    ledger: LedgerReader
    from_step: int
    checkpoint: Path | None
    until_step: int
    stops_at_difference: bool = True
    saves: bool = False
    compared: Sequence[Path] = ()
    traced: bool = False
    trace_against: Path | None = None
    trace_kept: int | None = None


@dataclass(frozen=True)
class ExecutedSegment:
    """A segment that has ended.

    run:          its scratch directory.
    ledger:       its own records, from that of `from_step` on; None if nothing was recorded.
    end:          how the workers ended.
    step_seconds: seconds per step over the last steps; None if no step was recorded.
    wall_seconds: from the start of the workers to their end.
    """

    run: RunDirectory
    ledger: LedgerReader | None
    end: SegmentEnd
    step_seconds: float | None
    wall_seconds: float

    @property
    def error(self) -> LlmrunError:
        """Why the segment ended early."""
        assert self.end.error is not None, f"{self.run.path} ended early: {self.end.why}"
        return self.end.error


def replay_config(config: Config, *, traced: bool) -> Config:
    """`config` without evaluation, saving by steps or time, and comparison with other runs.

    All of these fields are operational.  Shards are not hashed: the ledger holds the digests of the tokens.  A traced
    execution does not recompute activations, so that each module is traced once.
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


def execute_segment(
    directory: Path, segment: ReplaySegment, backend: ProcessBackend, observer: SegmentObserver
) -> ExecutedSegment:
    """Execute a segment in `directory`, which must not exist.

    A segment that stops at a difference ends with an error, so compare the ledgers before looking at it.
    """
    run = RunDirectory(directory)
    make_directories(run.path)
    if segment.checkpoint is not None:
        begin_ledger(run.ledger_file, segment.ledger, segment.from_step)
    begun_s = time.monotonic()
    variables = segment.replay_environment.variables
    end = run_scratch_segment(run, worker_spec_of(segment), variables, backend, observer)
    wall_seconds = time.monotonic() - begun_s
    ledger = LedgerReader(run.ledger_file) if run.ledger_file.exists() else None
    return ExecutedSegment(run, ledger, end, step_seconds_of(run, segment.until_step), wall_seconds)


def begin_ledger(path: Path, recorded: LedgerReader, step: int) -> None:
    """Write a ledger that holds the record of `step` only, or none before the first record of a migrated run."""
    if step < recorded.first_step:
        header = Header(
            recorded.header.producer, recorded.header.quantities, step + 1, recorded.chain_at(step)
        )
        replace_file(path, [header.to_bytes()])
        return
    before = recorded.chain_at(step - 1) if step else b""
    header = Header(recorded.header.producer, recorded.header.quantities, step, before)
    index = step - recorded.first_step
    replace_file(path, [header.to_bytes(), recorded.words[index : index + 1].data])


def worker_spec_of(segment: ReplaySegment) -> WorkerSpec:
    """The worker spec of a segment."""
    replay_environment = segment.replay_environment
    config = replay_config(replay_environment.resolved.config, traced=segment.traced)
    spec = make_worker_spec(
        replace(replay_environment.resolved, config=config),
        replay_environment.data_path,
        replay_environment.here,
        segment=SEGMENT,
        from_step=segment.from_step,
        checkpoint=None if segment.checkpoint is None else str(segment.checkpoint.resolve()),
        until_step=segment.until_step,
        audit_tails=[str(segment.ledger.path.resolve())] if segment.stops_at_difference else [],
    )
    return replace(
        spec,
        saves=segment.saves,
        compared=[str(path.resolve()) for path in segment.compared],
        traced=segment.traced,
        trace_against=None if segment.trace_against is None else str(segment.trace_against.resolve()),
        trace_kept=segment.trace_kept,
    )


def step_seconds_of(run: RunDirectory, until_step: int) -> float | None:
    """Seconds per step over the last steps up to `until_step`, from the tokens per second in metrics.jsonl.

    None if metrics.jsonl lacks the step.  Evaluation and saving between steps are not included.
    """
    row = row_at(run.metrics_file, until_step)
    if row is None:
        return None
    speed = number(row.get(names.TOTAL_TOKENS_PER_SECOND))
    tokens = number(row.get(names.TOKENS))
    return tokens / row[names.STEP] / speed if tokens and speed else None


@dataclass(frozen=True)
class Executor:
    """Executes steps of a run in scratch directories.

    scratch: the directory of these directories.  D, data: as for `replay_environment_for`.
    """

    backend: ProcessBackend
    observer: SegmentObserver
    scratch: Path
    D: int | None = None
    data: Path | None = None

    def new_directory(self) -> Path:
        """A path below `scratch` that does not exist yet."""
        return self.scratch / f"segment-{sum(1 for _ in self.scratch.iterdir()) + 1:03d}"


@dataclass(frozen=True)
class PlannedSteps:
    """Steps to execute again: `start.step` + 1 to `until_step`."""

    start: StartState
    until_step: int


@dataclass(frozen=True)
class ComparedCheckpoint:
    """A checkpoint of the run that the executed state was compared with, byte by byte.

    differing: names of the tensors that differ.
    """

    name: str
    step: int
    n_tensors: int
    differing: tuple[str, ...]


@dataclass(frozen=True)
class ExecutedSteps:
    """The result of executing planned steps.

    n_equal:       steps whose records are equal.
    difference:    the first difference; `a` is the run's record.
    last_segment:  the last segment that was executed.
    checkpoints:   the run's checkpoints that were compared.
    step_seconds:  seconds per step here; training_step_seconds: of these steps in the run.  None if unknown.
    wall_seconds:  from start to end.
    """

    planned: PlannedSteps
    replay_environments: tuple[ReplayEnvironment, ...]
    n_equal: int
    difference: RecordDifference | None
    last_segment: ExecutedSegment
    checkpoints: tuple[ComparedCheckpoint, ...]
    step_seconds: float | None
    training_step_seconds: float | None
    wall_seconds: float


def execute(
    recorded: RecordedRun, planned: PlannedSteps, executor: Executor, saves: bool = False
) -> ExecutedSteps:
    """Execute planned steps, with one segment for each fingerprint, up to the first difference.

    saves: whether the state after the last step is saved, in the directory of the last segment.
    Raises the workers' error if they fail without having recorded a difference.
    """
    segments = plan_segments(recorded, planned, executor, saves)
    checkpoint = planned.start.path
    done: ExecutedSegment | None = None
    difference: RecordDifference | None = None
    compared: list[ComparedCheckpoint] = []
    wall_seconds = 0.0
    for segment in segments:
        done = execute_segment(
            executor.new_directory(),
            replace(segment, checkpoint=checkpoint),
            executor.backend,
            executor.observer,
        )
        wall_seconds += done.wall_seconds
        difference = compare_segment(segment, done)
        compared += compared_checkpoints(done)
        if difference is not None or any(checkpoint.differing for checkpoint in compared):
            break
        checkpoint = saved_checkpoint(done)
    assert done is not None
    reached = planned.until_step if difference is None else difference.step - 1
    return ExecutedSteps(
        planned=planned,
        replay_environments=tuple(segment.replay_environment for segment in segments),
        n_equal=max(reached - planned.start.step, 0),
        difference=difference,
        last_segment=done,
        checkpoints=tuple(compared),
        step_seconds=done.step_seconds,
        training_step_seconds=step_seconds_of(recorded.run, planned.until_step),
        wall_seconds=wall_seconds,
    )


def plan_segments(
    recorded: RecordedRun, planned: PlannedSteps, executor: Executor, saves: bool
) -> list[ReplaySegment]:
    """The segments of planned steps; all but the first start from the checkpoint of the segment before."""
    segments = []
    for span in recorded.spans:
        first, last = max(span.from_step, planned.start.step), min(span.to_step, planned.until_step)
        if first < last:
            segments.append(
                ReplaySegment(
                    replay_environment=recorded.replay_environment(
                        last, executor.backend, executor.D, executor.data
                    ),
                    ledger=recorded.ledger,
                    from_step=first,
                    checkpoint=None,
                    until_step=last,
                    saves=saves or last < planned.until_step,
                    compared=recorded.checkpoints_within(first, last),
                )
            )
    assert segments, f"no step from {planned.start.step} to {planned.until_step}"
    return segments


def compare_segment(segment: ReplaySegment, done: ExecutedSegment) -> RecordDifference | None:
    """The first difference between the records of the run (a) and those of its execution (b).

    Raises the workers' error if they ended early without a difference.
    """
    found = None
    if done.ledger is not None and done.ledger.n_records:
        start = segment.from_step + 1 if segment.from_step else 0
        found = first_difference(segment.ledger, done.ledger, range(start, done.ledger.last_step + 1))
    if found is None and (done.ledger is None or done.ledger.last_step < segment.until_step):
        raise done.error
    return found


def compared_checkpoints(done: ExecutedSegment) -> list[ComparedCheckpoint]:
    """The checkpoints that the workers compared; those that were removed meanwhile are left out."""
    path = done.run.path / "saved-states.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    return [
        ComparedCheckpoint(name, step_of(name) or 0, entry["tensors"], tuple(entry["differing"]))
        for name, entry in found.items()
        if entry is not None
    ]


def saved_checkpoint(done: ExecutedSegment) -> Path | None:
    """The checkpoint that a segment saved at its end; None if it saved none."""
    steps = steps_in(done.run.checkpoints)
    return done.run.checkpoints / step_name(steps[-1]) if steps else None
