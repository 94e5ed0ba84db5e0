"""Runs a prepared segment to its end and records how it ended; records the end of one whose launcher was killed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llmrun.errors import DamagedError, LlmrunError, PreemptedError, RunFailedError
from llmrun.launch.failure_report import resume_hint
from llmrun.launch.forecasting import ForecastRecorder
from llmrun.launch.options import Notify
from llmrun.launch.os_errors import file_error, os_error_as
from llmrun.launch.prepared_segment import PreparedSegment
from llmrun.launch.torchrun import ProcessBackend, WorkerJob
from llmrun.launch.watch import SegmentEnd, SegmentObserver, Watch
from llmrun.run.directory import RunDirectory
from llmrun.run.record import RunRecord
from llmrun.run.signals import LauncherStopRequest
from llmrun.storage.durable import make_directories
from llmrun.storage.ledger.reader import LedgerReader


@dataclass(frozen=True)
class SegmentResult:
    """A segment that has ended.  record: run.json, with this segment as its last."""

    record: RunRecord
    end: SegmentEnd

    @property
    def step(self) -> int:
        """Finished steps of the run."""
        last = self.record.segments[-1]
        assert last.to_step is not None
        return last.to_step

    def error(self, run: RunDirectory) -> LlmrunError | None:
        """The preemption or failure that ended the segment, if one did."""
        if self.end.why == "preempted":
            return PreemptedError(
                f"preempted after step {self.step:,}, which is saved"
                if self.step
                else "preempted before the first step",
                hints=[resume_hint(run)],
            )
        return self.end.error


def run_segment(
    prepared: PreparedSegment,
    backend: ProcessBackend,
    stop: LauncherStopRequest,
    observer: SegmentObserver,
    more_warnings: Callable[[], Sequence[str]] = tuple,
) -> SegmentResult:
    """Start the workers, watch them, record the end, release the lock.

    more_warnings: called when the workers have ended; what it returns is recorded as warnings of this segment.

    Whatever is raised, no process is left and the lock is released.
    Raises RunFailedError if the run's files cannot be written.
    """
    run, number, from_step = prepared.run, prepared.segment.segment, prepared.segment.from_step
    hints = [resume_hint(run)]
    with prepared.lock, os_error_as(RunFailedError, run.path, hints):
        make_directories(run.segment_logs(number))
        prepared.worker_spec.write(run.worker_spec_file(number))
        record = prepared.record.with_segment(prepared.segment)
        record.write(run.record_file)
        job = WorkerJob(run, number, prepared.segment.D, prepared.preflight.environment)
        forecast = ForecastRecorder.at_start(prepared)
        workers = backend.start(job)
        end = Watch(run, number, job.D, from_step, workers, stop, prepared.lock, observer, hints).until_end()
        end = replace(end, warnings=(*end.warnings, *more_warnings()))
        record = record.closed(end.why, last_recorded_step(run, from_step), end.proven_steps, end.warnings)
        if not prepared.lock.is_lost:
            end = write_end(run, record, end)
            end = replace(end, warnings=(*end.warnings, *forecast.at_end(record)))
        return SegmentResult(record, end)


def write_end(run: RunDirectory, record: RunRecord, end: SegmentEnd) -> SegmentEnd:
    """Write run.json; returns the end with the error, or the warning, that it could not be written.

    A segment that failed keeps its own error.  Nothing that was trained is lost: the next resume finds a segment
    without a recorded end and closes it.
    """
    try:
        record.write(run.record_file)
    except OSError as error:
        not_written = file_error(RunFailedError, run.record_file, error, [resume_hint(run)])
        if end.why in ("finished", "reached"):
            return replace(end, error=not_written)
        return replace(end, warnings=(*end.warnings, not_written.message))
    return end


def close_open_segment(run: RunDirectory, record: RunRecord, notify: Notify) -> RunRecord:
    """Record the end of the last segment if its launcher was killed before it could."""
    last = record.last
    if last is None or last.why is not None:
        return record
    step = last_recorded_step(run, last.from_step)
    closed = record.closed("killed", step)
    closed.write(run.record_file)
    notify(
        f"segment {last.segment} has no recorded end (last step {step:,}): its launcher was probably killed"
    )
    return closed


def last_recorded_step(run: RunDirectory, at_least: int) -> int:
    """The last step in the ledger; `at_least` if that is later, or if the ledger cannot be read."""
    try:
        return max(LedgerReader(run.ledger_file).last_step, at_least)
    except (OSError, DamagedError):
        return at_least
