"""Runs the workers of a segment in a scratch directory to their end: no run record, no fingerprint to compare, no resume."""

from collections.abc import Mapping

from llmrun.launch.torchrun import ProcessBackend, WorkerJob
from llmrun.launch.watch import SegmentEnd, SegmentObserver, Watch
from llmrun.run.directory import RunDirectory
from llmrun.run.lock import RunLock
from llmrun.run.signals import LauncherStopRequest
from llmrun.run.worker_spec import WorkerSpec
from llmrun.storage.durable import make_directories


def run_scratch_segment(
    run: RunDirectory,
    worker_spec: WorkerSpec,
    environment: Mapping[str, str],
    backend: ProcessBackend,
    observer: SegmentObserver,
) -> SegmentEnd:
    """Start the workers, wait until none is left, and return how the segment ended.

    run:         its directories are made if they do not exist.
    environment: all variables of the workers.
    """
    make_directories(run.segment_logs(worker_spec.segment))
    make_directories(run.checkpoints)
    worker_spec.write(run.worker_spec_file(worker_spec.segment))
    with RunLock.acquire(run.lock_file) as lock:
        workers = backend.start(WorkerJob(run, worker_spec.segment, worker_spec.D, environment))
        watch = Watch(
            run,
            worker_spec.segment,
            worker_spec.D,
            worker_spec.from_step,
            workers,
            LauncherStopRequest(),
            lock,
            observer,
        )
        return watch.until_end()
