"""Processes of a run's earlier segment that have not ended yet.

Workers die with their launcher, but not at the same instant: the agent goes first, then the workers, then their
loader workers, and a process in the middle of a write to a slow disk goes only after the write.  Until then they may
still append to the ledger or commit a checkpoint, so a launcher that takes the lock over waits for them.
"""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from llmrun.errors import RefusedError
from llmrun.launch.options import Notify
from llmrun.launch.torchrun import WORKER_MODULE
from llmrun.run.directory import RunDirectory

END_WITHIN_S = 60.0
POLL_S = 0.05
LOG_NAME = re.compile(r"(torchrun|rank-\d+)\.log")


def wait_for_orphans(
    run: RunDirectory,
    notify: Notify,
    check: Callable[[], None] | None = None,
    within_s: float = END_WITHIN_S,
) -> None:
    """Return when no process on this host works for `run` any more.  The caller holds the run's lock.

    check: called while waiting; what it raises ends the wait.
    Raises RefusedError if one is still there after `within_s` seconds.
    """
    orphans = orphans_of(run)
    if orphans:
        notify(f"waiting for processes of the previous segment to end: PID {pids_of(orphans)}")
    deadline = time.monotonic() + within_s
    while orphans and time.monotonic() < deadline:
        if check is not None:
            check()
        time.sleep(POLL_S)
        orphans = orphans_of(run)
    if orphans:
        raise RefusedError(
            f"processes of the previous segment still work in {run.name} after {within_s:.0f} s: "
            f"PID {pids_of(orphans)}",
            where=str(run.path),
            hints=[
                f"`kill -9 {pids_of(orphans)}` ends them; one that waits for a disk ends when the disk answers"
            ],
        )


def pids_of(processes: list[psutil.Process]) -> str:
    """PIDs as arguments of `kill`."""
    return " ".join(str(process.pid) for process in processes)


def orphans_of(run: RunDirectory) -> list[psutil.Process]:
    """Agents, workers and loader workers of this run."""
    return [process for process in psutil.process_iter() if works_for(process, run)]


def works_for(process: psutil.Process, run: RunDirectory) -> bool:
    """Whether a live process is, or may start, a worker of `run`: it names the run, or writes to one of its logs."""
    return is_named_for(process, run) or writes_log_of(process, run)


def writes_log_of(process: psutil.Process, run: RunDirectory) -> bool:
    """Whether the standard output of a live process is a log of `run`: so it is for agent, workers and their forks."""
    try:
        output = Path(f"/proc/{process.pid}/fd/1")
        if process.status() == psutil.STATUS_ZOMBIE or not LOG_NAME.fullmatch(output.readlink().name):
            return False
        return any(output.samefile(log) for log in run.path.glob("logs/segment-*/*.log"))
    except (psutil.Error, OSError):
        return False


def is_named_for(process: psutil.Process, run: RunDirectory) -> bool:
    """Whether a live process has the command line `boot.py -m llmrun.runtime.worker RUN_DIR SEGMENT`."""
    try:
        arguments = process.cmdline()
        at = arguments.index(WORKER_MODULE, 1)
        if arguments[at - 1] != "-m":
            return False
        path = as_seen_from_here(process, Path(arguments[at + 1]))
        return process.status() != psutil.STATUS_ZOMBIE and path.samefile(run.path)
    except (psutil.Error, OSError, ValueError, IndexError):
        return False


def as_seen_from_here(process: psutil.Process, path: Path) -> Path:
    """A path of another process, which may be in a container with other mounts, as a path of this one."""
    inside = Path(f"/proc/{process.pid}/root" if path.is_absolute() else f"/proc/{process.pid}/cwd")
    if os.access(inside, os.X_OK):
        return inside / path.relative_to("/") if path.is_absolute() else inside / path
    return path if path.is_absolute() else Path(process.cwd()) / path
