"""Runs a prepared segment to its end and writes down how it ended."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llmrun.errors import LlmrunError, PreemptedError, RunFailedError
from llmrun.launch.failure_report import resume_hint
from llmrun.launch.forecasting import ForecastKeeper
from llmrun.launch.prepared import PreparedSegment
from llmrun.launch.resume import recorded_step
from llmrun.launch.torchrun import ProcessBackend, WorkerJob
from llmrun.launch.unwritable import os_error_as, refused_by_system
from llmrun.launch.watch import SegmentEnd, SegmentObserver, Watch
from llmrun.run.directory import RunDirectory
from llmrun.run.record import RunRecord
from llmrun.run.signals import LauncherStopRequest
from llmrun.storage.durable import make_directories


@dataclass(frozen=True)
class Ended:
    """A segment that has ended, as run.json has it."""

    record: RunRecord
    end: SegmentEnd

    @property
    def step(self) -> int:
        """Finished steps of the run."""
        last = self.record.segments[-1]
        assert last.to_step is not None
        return last.to_step

    def error(self, run: RunDirectory) -> LlmrunError | None:
        """What the user must know beside how far it came: a failure or a preemption."""
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
    warnings: Callable[[], Sequence[str]] = tuple,
) -> Ended:
    """Start the workers, watch them, record the end, release the lock.

    warnings: asked when the workers have ended: what else is to be recorded as a warning of this segment.

    Whatever is raised, no process is left and the lock is free.
    Raises RunFailedError where the run's files cannot be written.
    """
    run, number = prepared.run, prepared.segment.segment
    with prepared.lock, os_error_as(RunFailedError, run.path, [resume_hint(run)]):
        make_directories(run.segment_logs(number))
        prepared.worker_spec.write(run.worker_spec_file(number))
        record = prepared.record.with_segment(prepared.segment)
        record.write(run.record_file)
        job = WorkerJob(run, number, prepared.segment.D, prepared.preflight.environment)
        judge = ForecastKeeper.at_start(prepared)
        workers = backend.start(job)
        watch = Watch(run, number, job.D, prepared.segment.from_step, workers, stop, prepared.lock, observer)
        end = watch.until_end()
        end = replace(end, remarks=(*end.remarks, *warnings()))
        to_step = recorded_step(run, prepared.segment.from_step)
        record = record.closed(end.why, to_step, end.proven_steps, end.remarks)
        if not prepared.lock.is_lost:
            end = written_down(run, record, end)
            remarks = judge.at_end(record)
            end = replace(end, remarks=(*end.remarks, *remarks))
        return Ended(record, end)


def written_down(run: RunDirectory, record: RunRecord, end: SegmentEnd) -> SegmentEnd:
    """Write run.json; where that fails, the end says so, after what is worse: the segment's own error.

    What was trained is not lost: the next resume finds a segment without an end, and closes it.
    """
    try:
        record.write(run.record_file)
    except OSError as error:
        unwritten = refused_by_system(RunFailedError, run.record_file, error, [resume_hint(run)])
        if end.why in ("finished", "reached"):
            return replace(end, error=unwritten)
        return replace(end, remarks=(*end.remarks, unwritten.message))
    return end
