"""Processes of a run's earlier segment that are not gone yet.

Workers die with their launcher, but not in the same instant: the agent goes first, then the workers, then theirs,
and a process in the middle of a write to a slow disk goes only after it.  Until then they may still append to the
ledger or give a checkpoint its name, so whoever takes the lock over waits for them.
"""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from llmrun.errors import RefusedError
from llmrun.launch.torchrun import WORKER_MODULE
from llmrun.run.directory import RunDirectory

GONE_WITHIN_S = 60.0
POLL_S = 0.05
LOG_NAME = re.compile(r"(torchrun|rank-\d+)\.log")

Notify = Callable[[str], None]


def wait_for_leftovers(
    run: RunDirectory,
    notify: Notify,
    check: Callable[[], None] | None = None,
    within_s: float = GONE_WITHIN_S,
) -> None:
    """Return when no process on this host works for `run` any more.  To be called with the run's lock held.

    check: called while waiting; what it raises ends the waiting.
    Raises RefusedError where one is still there after `within_s` seconds.
    """
    left = leftovers(run)
    if left:
        notify(f"waiting for the processes of the segment before: PID {numbers_of(left)}")
    deadline = time.monotonic() + within_s
    while left and time.monotonic() < deadline:
        if check is not None:
            check()
        time.sleep(POLL_S)
        left = leftovers(run)
    if left:
        raise RefusedError(
            f"processes of the segment before still work in {run.name} after {within_s:.0f} s: "
            f"PID {numbers_of(left)}",
            where=str(run.path),
            hints=[
                f"`kill -9 {numbers_of(left)}` ends them; one that waits for a disk ends when that answers"
            ],
        )


def numbers_of(processes: list[psutil.Process]) -> str:
    """Their PIDs."""
    return " ".join(str(process.pid) for process in processes)


def leftovers(run: RunDirectory) -> list[psutil.Process]:
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
        words = process.cmdline()
        at = words.index(WORKER_MODULE, 1)
        if words[at - 1] != "-m":
            return False
        path = as_seen_by(process, Path(words[at + 1]))
        return process.status() != psutil.STATUS_ZOMBIE and path.samefile(run.path)
    except (psutil.Error, OSError, ValueError, IndexError):
        return False


def as_seen_by(process: psutil.Process, path: Path) -> Path:
    """A path of another process, which may be in a container with other mounts, as one of ours."""
    inside = Path(f"/proc/{process.pid}/root" if path.is_absolute() else f"/proc/{process.pid}/cwd")
    if os.access(inside, os.X_OK):
        return inside / path.relative_to("/") if path.is_absolute() else inside / path
    return path if path.is_absolute() else Path(process.cwd()) / path
