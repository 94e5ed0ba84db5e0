"""Checks before a run and before each save that the disk has room for checkpoints and can commit them."""

import errno
import os
from pathlib import Path

from llmrun.errors import Hint, RefusedError
from llmrun.storage.checkpoint.errors import CheckpointWriteError
from llmrun.storage.checkpoint.layout import step_name, steps_in
from llmrun.storage.durable import DISK, TEMPORARY_PREFIX, Disk, write_new


def free_bytes(path: Path) -> int:
    """The free bytes for this user on the disk that holds `path` or its nearest existing parent."""
    while not path.exists():
        path = path.parent
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def held_bytes(checkpoints_dir: Path) -> int:
    """The size in bytes of the checkpoints that a run already has."""
    directories = [checkpoints_dir / step_name(step) for step in steps_in(checkpoints_dir)]
    files = (entry for path in directories if not path.is_symlink() for entry in path.iterdir())
    return sum(entry.lstat().st_size for entry in files)


def preflight(
    checkpoints_dir: Path, checkpoint_bytes: int, count: int, where: Path, disk: Disk = DISK
) -> None:
    """Check that a run can keep its checkpoints, and try the operations of a commit.  Raises RefusedError.

    checkpoints_dir:   of the run; must exist.
    checkpoint_bytes:  of one checkpoint.  count: the most that exist at once.
    where:             the path that an error names (the directory of a new run is a draft that is removed).
    """
    needed = count * checkpoint_bytes - held_bytes(checkpoints_dir)
    free = free_bytes(checkpoints_dir)
    if needed > free:
        raise RefusedError(
            f"not enough disk space: {count} checkpoints of {shown_bytes(checkpoint_bytes)} need "
            f"{shown_bytes(needed)} more, {shown_bytes(free)} are free",
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
            f"cannot write checkpoints: {error.strerror}",
            where=str(where),
            hints=[Hint.setting("make the directory writable, or set another `runs_dir`", "runs_dir")],
        ) from error


def check_room(checkpoints_dir: Path, checkpoint_bytes: int) -> None:
    """Check before a save that one more checkpoint fits.  Raises CheckpointWriteError (disk_full).

    checkpoint_bytes: estimated size of all its files.
    """
    free = free_bytes(checkpoints_dir)
    if checkpoint_bytes > free:
        raise CheckpointWriteError(
            f"not enough disk space: a checkpoint needs {shown_bytes(checkpoint_bytes)}, {shown_bytes(free)} are free",
            code=errno.ENOSPC,
        )


def shown_bytes(count: int) -> str:
    """A size with a decimal unit and three significant digits."""
    if count < 1000:
        return f"{count} B"
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"
