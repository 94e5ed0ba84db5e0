"""Brings a run's files back to the step that a segment starts from, and keeps what was cut off for the audit."""

from collections.abc import Callable
from pathlib import Path

from llmrun.errors import DamagedError, LlmrunError, RefusedError
from llmrun.launch.preflight import Notify
from llmrun.launch.select_checkpoint import Start
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


def check_ledger(run: RunDirectory, start: Start) -> None:
    """The ledger must reach the checkpoint, hold its chain and be sound up to it.  Raises RefusedError."""
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
            f"the ledger's chain at step {start.step:,} is not the one that {start.name} was saved with",
            where=str(run.ledger_file),
            hints=hints,
        )
    refuse_broken(ledger, start.step)


def rewind(run: RunDirectory, start: Start, segment: Segment, notify: Notify) -> Path | None:
    """Bring the run's files back to the start step.  Returns the ledger's tail, where one was cut off.

    Checkpoints go first: should this be interrupted, the newest one never lies beyond the ledger.
    """
    sweep(run.checkpoints)
    sweep_files(run.path)
    left = abandon(run.checkpoints, start.step, segment.segment)
    if left:
        steps = ", ".join(str(step) for step in left)
        which = f"checkpoint of step {steps}" if len(left) == 1 else f"checkpoints of steps {steps}"
        notify(f"{which} moved aside to checkpoints/abandoned-{segment.segment:03d}")
    cut_metrics(run.metrics_file, start.step)
    warn_of_lost_rows(run, start, notify)
    if not run.ledger_file.exists():
        return None
    keep = None if start.checkpoint is None else start.step
    return refusing(lambda: cut_ledger(run.ledger_file, keep, run.free_ledger_tail(segment.segment)))


RANGES_SHOWN = 5


def warn_of_lost_rows(run: RunDirectory, start: Start, notify: Notify) -> None:
    """Print which steps up to the start step have no row in metrics.jsonl: deleted, or not readable any more."""
    origin = origin_of(run)
    first = 1 if origin is None else origin.step + 1
    lost = missing_steps(run.metrics_file, range(first, start.step + 1))
    if not lost:
        return
    ranges = [f"{part[0]:,} to {part[-1]:,}" if len(part) > 1 else f"{part[0]:,}" for part in lost]
    shown = listed(ranges, RANGES_SHOWN, "more ranges")
    plural = "step" if sum(map(len, lost)) == 1 else "steps"
    notify(
        f"warning: metrics.jsonl has no row of {plural} {shown}: deleted, or not readable; the ledger has them"
    )


def refusing(cut: Callable[[], Path | None]) -> Path | None:
    """Damage found before anything started is a refusal."""
    try:
        return cut()
    except DamagedError as error:
        raise RefusedError(error.message, where=error.where, hints=error.hints) from error


def tails_to_audit(
    run: RunDirectory, record: RunRecord, reference: Segment | None, segment: Segment
) -> list[str]:
    """The file names of the cut tails that hold recomputed steps, longest first.

    All that reach from the start step on: steps that an earlier resume did not come to recompute are proven
    by a later one, and a record that a memory error spoiled is told by the others.  A tail counts only where
    everything recorded since the start step's segment was recorded under this segment's fingerprint.
    """
    first = 0 if reference is None else reference.segment - 1
    if any(earlier.fingerprint != segment.fingerprint for earlier in record.segments[first:]):
        return []
    whole_run = all(earlier.fingerprint == segment.fingerprint for earlier in record.segments)
    numbers = range(1, segment.segment + 1) if whole_run else [segment.segment]
    paths = [path for number in numbers for path in run.ledger_tails(number)]
    useful: list[tuple[int, str]] = []
    for path in paths:  # one at a time: a reader keeps its file open, and a run may have many tails
        tail = sound_tail(path)
        if tail is not None and tail.first_step <= segment.from_step + 1 <= tail.last_step:
            useful.append((tail.last_step, path.name))
    return [name for _, name in sorted(useful, key=lambda entry: entry[0], reverse=True)]


def sound_tail(path: Path) -> LedgerReader | None:
    """A tail that was cut off; None where it does not hold: an audit is a gift, and a false alarm is none."""
    try:
        tail = LedgerReader(path)
        return tail if tail.verify_chain() is None else None
    except (OSError, LlmrunError):
        return None
