"""Before a run and before each save: is there room, and does the disk do what a commit needs."""

import errno
import os
from pathlib import Path

from llmrun.errors import Hint, RefusedError
from llmrun.storage.checkpoint.errors import CheckpointWriteError
from llmrun.storage.checkpoint.layout import step_name, steps_in
from llmrun.storage.durable import DISK, TEMPORARY_PREFIX, Disk, write_new
from llmrun.text import format_bytes


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write on the disk that holds `path`, or its nearest parent."""
    while not path.exists():
        path = path.parent
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def held_bytes(checkpoints_dir: Path) -> int:
    """Bytes of the checkpoints that a run has already."""
    directories = [checkpoints_dir / step_name(step) for step in steps_in(checkpoints_dir)]
    files = (entry for path in directories if not path.is_symlink() for entry in path.iterdir())
    return sum(entry.lstat().st_size for entry in files)


def preflight(
    checkpoints_dir: Path, checkpoint_bytes: int, count: int, where: Path, disk: Disk = DISK
) -> None:
    """Refuse a run whose checkpoints cannot be kept.

    checkpoints_dir:   of the run; it exists.
    checkpoint_bytes:  of one checkpoint.  count: the most that are there at once.
    where:             what a refusal names: a new run's own directory is a draft that is gone by then.
    Raises RefusedError with the numbers, or with the operation that failed in a trial commit.
    """
    needed = count * checkpoint_bytes - held_bytes(checkpoints_dir)
    free = free_bytes(checkpoints_dir)
    if needed > free:
        raise RefusedError(
            f"{count} checkpoints of {format_bytes(checkpoint_bytes)} need {format_bytes(needed)} more disk, "
            f"{format_bytes(free)} are free",
            where=str(where),
            hints=[
                Hint.setting(
                    "free space, set another `runs_dir`, or lower `checkpoint.keep_last`", "runs_dir"
                )
            ],
        )
    _trial(checkpoints_dir, where, disk)


def _trial(directory: Path, where: Path, disk: Disk) -> None:
    """Write, fsync and rename one file, as a commit does."""
    written = directory / f"{TEMPORARY_PREFIX}trial-{os.getpid()}"
    renamed = written.with_name(f"{written.name}-renamed")
    try:
        write_new(written, [b"trial\n"], disk)
        disk.rename(written, renamed)
        disk.fsync_directory(directory)
        disk.remove_file(renamed)
    except OSError as error:
        raise RefusedError(
            f"checkpoints cannot be written: {error.strerror}",
            where=str(where),
            hints=[Hint.setting("make the directory writable, or set another `runs_dir`", "runs_dir")],
        ) from error


def check_room(checkpoints_dir: Path, checkpoint_bytes: int) -> None:
    """Before a save: raise CheckpointWriteError (disk_full) where one more checkpoint does not fit.

    checkpoint_bytes: of all files, about.
    """
    free = free_bytes(checkpoints_dir)
    if checkpoint_bytes > free:
        raise CheckpointWriteError(
            f"a checkpoint of {format_bytes(checkpoint_bytes)} does not fit: {format_bytes(free)} are free",
            code=errno.ENOSPC,
        )
