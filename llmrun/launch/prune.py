"""Prunes a run's checkpoints on request, under the run's lock: never while it is trained."""

from llmrun.launch.options import Notify
from llmrun.launch.orphans import wait_for_orphans
from llmrun.run.directory import RunDirectory
from llmrun.run.history import config_in_force
from llmrun.run.lock import RunLock
from llmrun.run.record import read_record
from llmrun.run.record_check import record_check_of
from llmrun.storage.checkpoint.layout import step_name, steps_in
from llmrun.storage.checkpoint.listing import best_step_of
from llmrun.storage.checkpoint.reader import open_checkpoint
from llmrun.storage.checkpoint.retention import Pruned, prune


def prune_run(run: RunDirectory, keep_last: int, notify: Notify, *, dry_run: bool = False) -> Pruned:
    """Keep the newest `keep_last`, the best, and what the run's `checkpoint.keep_every_steps` keeps.

    Raises RefusedError with the owner of the lock if the run is being trained, InputError if run.json cannot be
    read, DamagedError if the newest checkpoint cannot.
    """
    every_n = config_in_force(run, read_record(run.record_file))["checkpoint"]["keep_every_steps"]
    with RunLock.acquire(run.lock_file, notify=notify) as lock:
        if lock.taken_over is not None:
            notify(lock.taken_over)
        wait_for_orphans(run, notify)
        steps = steps_in(run.checkpoints)
        best = best_step_of(open_checkpoint(run.checkpoints / step_name(steps[-1]))) if steps else None
        return prune(
            run.checkpoints, keep_last, best, every_n, dry_run=dry_run, record_check=record_check_of(run)
        )
