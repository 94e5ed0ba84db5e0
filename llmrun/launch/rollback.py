"""Rolls a run's files back to the step that a segment starts from; what is cut off is kept for the audit."""

from pathlib import Path

from llmrun.errors import DamagedError, LlmrunError, RefusedError
from llmrun.launch.options import Notify
from llmrun.launch.select_checkpoint import SegmentStart
from llmrun.run.directory import RunDirectory
from llmrun.run.origin import origin_of
from llmrun.run.record import RunRecord, Segment
from llmrun.storage.checkpoint.retention import abandon, sweep
from llmrun.storage.durable import sweep_files
from llmrun.storage.ledger.reader import LedgerReader
from llmrun.storage.ledger.writer import cut_back as cut_ledger
from llmrun.storage.ledger.writer import refuse_broken
from llmrun.storage.metrics.jsonl import cut_back as cut_metrics
from llmrun.storage.metrics.jsonl import missing_steps
from llmrun.text import listed


def check_ledger(run: RunDirectory, start: SegmentStart) -> None:
    """Check that the ledger reaches the checkpoint, has its chain there, and is sound up to it.  Raises RefusedError."""
    if start.checkpoint is None:
        return
    hints = ["restore the ledger from a copy, or resume from an older checkpoint: `--from STEP`"]
    try:
        ledger = LedgerReader(run.ledger_file)
    except FileNotFoundError as error:
        raise RefusedError(
            f"{run.name} has checkpoints and no ledger", where=str(run.ledger_file), hints=hints
        ) from error
    except DamagedError as error:
        raise RefusedError(error.message, where=error.where, hints=hints) from error
    if ledger.last_step < start.step:
        raise RefusedError(
            f"the ledger ends at step {ledger.last_step:,}, before the checkpoint of step {start.step:,}",
            where=str(run.ledger_file),
            hints=hints,
        )
    if ledger.chain_at(start.step).hex() != start.checkpoint.manifest.chain:
        raise RefusedError(
            f"the ledger's chain at step {start.step:,} is not the one in the manifest of {start.name}",
            where=str(run.ledger_file),
            hints=hints,
        )
    refuse_broken(ledger, start.step)


def roll_back(run: RunDirectory, start: SegmentStart, segment: Segment, notify: Notify) -> Path | None:
    """Roll the run's files back to the start step.  Returns the ledger's tail, if one was cut off.

    Checkpoints go first: if this is interrupted, the newest one is never ahead of the ledger.
    Raises RefusedError if the ledger is damaged.
    """
    sweep(run.checkpoints)
    sweep_files(run.path)
    moved = abandon(run.checkpoints, start.step, segment.segment)
    if moved:
        steps = ", ".join(str(step) for step in moved)
        which = f"checkpoint of step {steps}" if len(moved) == 1 else f"checkpoints of steps {steps}"
        notify(f"{which} moved to checkpoints/abandoned-{segment.segment:03d}")
    cut_metrics(run.metrics_file, start.step)
    warn_of_lost_rows(run, start, notify)
    if not run.ledger_file.exists():
        return None
    keep = None if start.checkpoint is None else start.step
    try:
        return cut_ledger(run.ledger_file, keep, run.free_ledger_tail(segment.segment))
    except DamagedError as error:
        raise RefusedError(error.message, where=error.where, hints=error.hints) from error


RANGES_SHOWN = 5


def warn_of_lost_rows(run: RunDirectory, start: SegmentStart, notify: Notify) -> None:
    """Name the steps up to the start step whose row in metrics.jsonl was deleted or cannot be read."""
    origin = origin_of(run)
    first = 1 if origin is None else origin.step + 1
    lost = missing_steps(run.metrics_file, range(first, start.step + 1))
    if not lost:
        return
    ranges = [f"{part[0]:,} to {part[-1]:,}" if len(part) > 1 else f"{part[0]:,}" for part in lost]
    shown = listed(ranges, RANGES_SHOWN, "more ranges")
    plural = "step" if sum(map(len, lost)) == 1 else "steps"
    notify(f"warning: metrics.jsonl has no readable row of {plural} {shown}; the ledger has their values")


def tails_to_audit(
    run: RunDirectory, record: RunRecord, reference: Segment | None, segment: Segment
) -> list[str]:
    """File names of the cut-off ledger tails that hold steps which this segment computes again, longest first.

    A recomputed step is confirmed by any earlier record of it that is equal.  So all tails are used that contain the
    step after the start: a step that an earlier resume did not reach is confirmed by an older tail, and a tail with
    a corrupted record does not stop the run again and again.
    None is used unless every segment since the start step's own had this segment's fingerprint.
    """
    first = 0 if reference is None else reference.segment - 1
    if any(earlier.fingerprint != segment.fingerprint for earlier in record.segments[first:]):
        return []
    whole_run = all(earlier.fingerprint == segment.fingerprint for earlier in record.segments)
    numbers = range(1, segment.segment + 1) if whole_run else [segment.segment]
    paths = [path for number in numbers for path in run.ledger_tails(number)]
    usable: list[tuple[int, str]] = []
    for path in paths:  # one at a time: a reader keeps its file open, and a run may have many tails
        tail = read_tail(path)
        if tail is not None and tail.first_step <= segment.from_step + 1 <= tail.last_step:
            usable.append((tail.last_step, path.name))
    return [name for _, name in sorted(usable, key=lambda entry: entry[0], reverse=True)]


def read_tail(path: Path) -> LedgerReader | None:
    """A cut-off tail; None if it fails verification: the audit is best-effort and must not raise false alarms."""
    try:
        tail = LedgerReader(path)
        return tail if tail.verify_chain() is None else None
    except (OSError, LlmrunError):
        return None
