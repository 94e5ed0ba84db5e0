"""Executes recorded steps again, in real workers, in a scratch directory: nothing is written into the run itself."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrun.config.schema import Config
from llmrun.durable import make_directories, replace_file
from llmrun.errors import LlmrunError
from llmrun.launch.ground import Ground
from llmrun.launch.prepared import checked_by_workers
from llmrun.launch.signals import StopRequest
from llmrun.launch.starter import Starter, WorkerJob
from llmrun.launch.watch import SegmentEnd, Spectator, Watch
from llmrun.ledger.header import Header
from llmrun.ledger.reader import LedgerReader
from llmrun.metrics import names
from llmrun.metrics.jsonl import number
from llmrun.metrics.lookup import row_at
from llmrun.run.directory import RunDirectory
from llmrun.run.lock import RunLock
from llmrun.run.orders import SegmentOrders

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

    ground: Ground
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
        error.hints = tuple(hint for hint in error.hints if str(self.run.path) not in hint)
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


def run_leg(directory: Path, leg: Leg, starter: Starter, spectator: Spectator) -> LegDone:
    """Execute a leg in `directory`, which must not exist.

    The end of a leg whose steps differ from what was recorded is a failure too: compare the ledgers first.
    """
    run = RunDirectory(directory)
    make_directories(run.segment_logs(SEGMENT))
    make_directories(run.checkpoints)
    if leg.checkpoint is not None:
        begin_ledger(run.ledger_file, leg.ledger, leg.from_step)
    orders_of(leg).write(run.orders_file(SEGMENT))
    begun_s = time.monotonic()
    with RunLock.acquire(run.lock_file) as lock:
        ranks = leg.ground.resolved.batch.D
        workers = starter.start(WorkerJob(run, SEGMENT, ranks, leg.ground.environment))
        watch = Watch(run, SEGMENT, ranks, leg.from_step, workers, StopRequest(), lock, spectator)
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


def orders_of(leg: Leg) -> SegmentOrders:
    """What the workers of a leg are told."""
    ground = leg.ground
    config = only_training(ground.resolved.config, traced=leg.traced)
    return SegmentOrders(
        segment=SEGMENT,
        D=ground.resolved.batch.D,
        from_step=leg.from_step,
        checkpoint=None if leg.checkpoint is None else str(leg.checkpoint.resolve()),
        until_step=leg.until_step,
        fingerprint=ground.here.digest,
        parts=ground.here.parts,
        config=config.model_dump(mode="json", by_alias=True),
        audit_tails=[str(leg.ledger.path.resolve())] if leg.audits else [],
        twin_ledger=None,
        data_path=str(ground.data_path),
        saves=leg.saves,
        compared=[str(path.resolve()) for path in leg.compared],
        traced=leg.traced,
        trace_against=None if leg.trace_against is None else str(leg.trace_against.resolve()),
        trace_kept=leg.trace_kept,
        preimages=checked_by_workers(ground.here),
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
