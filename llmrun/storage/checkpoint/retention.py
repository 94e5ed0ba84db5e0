"""Deletes and moves checkpoints: never the only sound one, and never so that a crash leaves a part of one."""

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmrun.storage.checkpoint.errors import CheckpointDamage, Damage
from llmrun.storage.checkpoint.layout import abandoned_name, step_name, steps_in
from llmrun.storage.checkpoint.verification import RecordCheck, open_checked
from llmrun.storage.durable import DISK, TEMPORARY_PREFIX, Disk


def to_delete(
    steps: Collection[int],
    last_k: int,
    best_step: int | None = None,
    every_n: int | None = None,
    protected: Collection[int] = (),
) -> list[int]:
    """The steps to delete, ascending.

    Kept: the newest `last_k` >= 1, `best_step`, multiples of `every_n`, and `protected`.
    """
    assert last_k >= 1
    assert every_n is None or every_n >= 1
    newest = set(sorted(steps)[-last_k:])
    kept = newest | set(protected) | {best_step}
    return sorted(
        step for step in steps if step not in kept and not (every_n is not None and step % every_n == 0)
    )


@dataclass(frozen=True)
class Pruned:
    """The result of `prune`.

    deleted, kept: steps.
    damages: of the newest checkpoint; if there are any, nothing was deleted.
    left: hidden names that could not be removed; the next `sweep` tries again.
    """

    deleted: tuple[int, ...]
    kept: tuple[int, ...]
    damages: tuple[Damage, ...] = ()
    left: tuple[str, ...] = ()


def prune(
    checkpoints_dir: Path,
    last_k: int,
    best_step: int | None = None,
    every_n: int | None = None,
    protected: Collection[int] = (),
    *,
    dry_run: bool = False,
    should_stop: Callable[[], bool] | None = None,
    record_check: RecordCheck | None = None,
    verified_step: int | None = None,
    disk: Disk = DISK,
) -> Pruned:
    """Delete the steps of `to_delete`, after every byte of the newest checkpoint was read and found sound.

    record_check: also compares the newest checkpoint with what the run recorded.
    should_stop: asked while the newest is read; once it is true nothing more is read and nothing is deleted.
    verified_step: a checkpoint that the caller has read and found sound; if it is the newest, it is not read again.
    Raises OSError if a checkpoint cannot be renamed; all that keep their name are then whole.
    """
    steps = steps_in(checkpoints_dir)
    surplus = to_delete(steps, last_k, best_step, every_n, protected)
    if not surplus:
        return Pruned((), tuple(steps))
    if steps[-1] != verified_step:
        try:
            open_checked(
                checkpoints_dir / step_name(steps[-1]), record_check=record_check, should_stop=should_stop
            )
        except CheckpointDamage as error:
            return Pruned((), tuple(steps), error.damages)
        if should_stop is not None and should_stop():
            return Pruned((), tuple(steps))
    left = () if dry_run else tuple(delete(checkpoints_dir, surplus, disk))
    return Pruned(tuple(surplus), tuple(step for step in steps if step not in surplus), left=left)


def delete(checkpoints_dir: Path, steps: Collection[int], disk: Disk = DISK) -> list[str]:
    """Delete checkpoints: rename all to hidden names, fsync, then remove.  Returns the hidden names that are left.

    Without the fsync in between, a power cut could leave a part of a checkpoint under its final name.
    Raises OSError if a rename fails; removing is best effort.
    """
    hidden = []
    for step in steps:
        name = step_name(step)
        hidden.append(_free_path(checkpoints_dir / f"{TEMPORARY_PREFIX}delete-{name}"))
        disk.rename(checkpoints_dir / name, hidden[-1])
    disk.fsync_directory(checkpoints_dir)
    return _remove_all(hidden, disk)


def _remove_all(hidden: Iterable[Path], disk: Disk) -> list[str]:
    """Remove hidden files and directories; returns the names of those that cannot be removed now."""
    left = []
    for path in hidden:
        with suppress(OSError):
            remove_hidden(path, disk)
            continue
        left.append(path.name)
    return left


def remove_hidden(path: Path, disk: Disk = DISK) -> None:
    """Remove a hidden directory or file, if it exists.  Raises OSError."""
    assert path.name.startswith(TEMPORARY_PREFIX), path
    if path.is_dir() and not path.is_symlink():
        disk.remove_tree(path)
    else:
        disk.remove_file(path)


def sweep(checkpoints_dir: Path, keep: str | None = None, disk: Disk = DISK) -> list[str]:
    """Remove what a crash or a failed save left under hidden names, except `keep`.

    Returns the names that could not be removed; the next sweep tries again.
    No other process may be saving: the launcher calls it under the run's lock, rank 0 before each save.
    """
    if not checkpoints_dir.is_dir():
        return []
    names = sorted(entry.name for entry in checkpoints_dir.iterdir())
    stale = [name for name in names if name.startswith(TEMPORARY_PREFIX) and name != keep]
    return _remove_all((checkpoints_dir / name for name in stale), disk)


def abandon(checkpoints_dir: Path, above_step: int, segment: int, disk: Disk = DISK) -> list[int]:
    """Move every checkpoint above `above_step` into `abandoned-<segment>/`, which readers ignore.

    Returns their steps, ascending.  The newest is moved first, so that a crash leaves a run without a gap.
    """
    steps = [step for step in steps_in(checkpoints_dir) if step > above_step]
    for step in reversed(steps):
        move_into(checkpoints_dir / abandoned_name(segment), checkpoints_dir / step_name(step), disk)
    return steps


def move_into(directory: Path, checkpoint: Path, disk: Disk = DISK) -> None:
    """Move a checkpoint into a directory next to it, which is made if it is missing; durable.  Raises OSError."""
    if not directory.exists():
        disk.make_directory(directory)
    disk.rename(checkpoint, _free_path(directory / checkpoint.name))
    disk.fsync_directory(directory)
    disk.fsync_directory(directory.parent)


def _free_path(path: Path) -> Path:
    """`path` if it is free, else the first free one of `path.2`, `path.3`, …."""
    free, count = path, 1
    while free.exists() or free.is_symlink():
        count += 1
        free = path.with_name(f"{path.name}.{count}")
    return free
